// The next hop in Node: it remembers each request as its parser read it. `/__seen` gives all back.
"use strict";
const crypto = require("node:crypto");
const http = require("node:http");

let seen = [];

function answer(request, response) {
  const hash = crypto.createHash("sha256");
  let size = 0;
  request.on("data", (piece) => {
    hash.update(piece);
    size += piece.length;
  });
  request.on("end", () => {
    let text = "ok";
    if (request.url === "/__seen") {
      text = JSON.stringify(seen);
      seen = [];
    } else {
      const raw = request.rawHeaders;
      const fields = [];
      for (let at = 0; at < raw.length; at += 2) fields.push([raw[at], raw[at + 1]]);
      seen.push([request.method, request.url, fields, size, hash.digest("hex")]);
    }
    response.setHeader("Content-Length", Buffer.byteLength(text));
    response.end(request.method === "HEAD" ? undefined : text);
  });
}

const server = http.createServer({ maxHeaderSize: 128 * 1024, keepAliveTimeout: 60000 }, answer);
server.maxHeadersCount = 0;
server.listen(0, "127.0.0.1", () => console.log(server.address().port));
process.stdin.resume();
process.stdin.on("end", () => process.exit(0));
