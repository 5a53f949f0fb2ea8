<?php

namespace Hello;

use Greeting\Greeting;

final class Page
{
    public function show(string $path): string
    {
        return Greeting::text() . "\nasked for " . $path . "\n";
    }
}
