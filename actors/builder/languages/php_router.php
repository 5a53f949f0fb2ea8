<?php
// Decides what PHP's own server gives out: files of the document root but hidden ones, vendor/ and those that say how to
// build; everything else goes to index.php. Copied beside the application by its build.
$root = realpath($_SERVER['DOCUMENT_ROOT']);
$path = rawurldecode(parse_url($_SERVER['REQUEST_URI'], PHP_URL_PATH) ?: '/');
$hidden = '#(^|/)(\.|vendor(/|$)|composer\.(json|lock)$|Procfile$|rayfold\.toml$)#';
$file = realpath($root . $path);
$inside = $file !== false && ($file === $root || strncmp($file, $root . '/', strlen($root) + 1) === 0);
if (strpos($path, "\0") !== false || preg_match($hidden, ltrim($path, '/'))) {
    http_response_code(404);
    echo "not found\n";
    return true;
}
if ($inside && is_file($file)) {
    return false;
}
foreach (['index.php', 'index.html'] as $index) {
    if ($inside && is_dir($file) && is_file($file . '/' . $index)) {
        return false;
    }
}
if (is_file($root . '/index.php')) {
    $_SERVER['SCRIPT_NAME'] = '/index.php';
    $_SERVER['SCRIPT_FILENAME'] = $root . '/index.php';
    require $root . '/index.php';
    return true;
}
http_response_code(404);
echo "not found\n";
return true;
