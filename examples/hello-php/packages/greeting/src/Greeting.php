<?php

namespace Greeting;

final class Greeting
{
    public static function text(): string
    {
        return getenv('MESSAGE') ?: 'Hello from Rayfold on PHP';
    }
}
