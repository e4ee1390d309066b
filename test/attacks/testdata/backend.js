// Node's http server with the routing that its documentation leads to: backend.js PORT.
'use strict';
const http = require('node:http');
const path = require('node:path');

http.createServer((request, response) => {
  let resolved;
  try {
    resolved = path.posix.normalize(decodeURIComponent(new URL(request.url, 'http://localhost').pathname));
  } catch {
    response.writeHead(400).end('no path\n');
    return;
  }
  const hex = (text) => Buffer.from(text, 'utf8').toString('hex');
  console.log(`seen ${request.headers['x-number']} - ${hex(resolved)} ${hex(request.url)}`);
  request.resume();
  response.end('seen\n');
}).listen(Number(process.argv[2]), '127.0.0.1');
