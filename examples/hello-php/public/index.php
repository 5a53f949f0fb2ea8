<?php

require __DIR__ . '/../vendor/autoload.php';

header('Content-Type: text/plain; charset=utf-8');
echo (new Hello\Page())->show($_SERVER['REQUEST_URI']);
