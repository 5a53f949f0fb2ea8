'use strict';
// Says hello and how long it has been up; stops without dropping a request.
const http = require('node:http');
const ms = require('ms');

const message = process.env.MESSAGE || 'Hello from Rayfold with yarn';
const started = Date.now();

const server = http.createServer((request, response) => {
  console.log(`${request.method} ${request.url}`);
  if (request.url === '/slow') {
    setTimeout(() => response.end('done\n'), 1000);
    return;
  }
  response.setHeader('Content-Type', 'text/plain; charset=utf-8');
  response.end(`${message}\nup for ${ms(Date.now() - started)}\n`);
});

process.on('SIGTERM', () => {
  // Stops accepting and ends once the requests under way are answered; idle keep-alive connections are closed.
  server.close(() => process.exit(0));
  server.closeIdleConnections();
});

server.listen(Number(process.env.PORT), '127.0.0.1', () => {
  console.log(`listening on 127.0.0.1:${process.env.PORT}`);
});
