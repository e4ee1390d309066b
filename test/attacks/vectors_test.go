//go:build attacks

package attacks

import (
	"fmt"
	"strings"
)

// vector is what one caller sends on one connection. %N is its number, which
// every path of it must carry; whatever else arrives at the application was
// smuggled. Each request line of it that may arrive begins with /ok/%N.
type vector struct {
	name string
	raw  string
	most int // requests that may arrive
	ok   int // requests that must be answered with 200; -1: any number up to most
}

const (
	// inner is what a smuggler hopes the application reads as a request.
	inner = "GET /admin/%N HTTP/1.1\r\nHost: orders\r\n\r\n"
	line  = "POST /ok/%N HTTP/1.1\r\nHost: orders\r\n"
)

// smuggling is the table: CL.TE, TE.CL, TE.TE and CL.0 in every dress, heads,
// request lines, chunks, pipelines, upgrades.
func smuggling() []vector {
	var all []vector
	for _, family := range [][]vector{
		transferEncodings(), contentLengths(), heads(), requestLines(), chunks(), sequences(),
	} {
		all = append(all, family...)
	}
	return all
}

// aside is each vector once more behind a lawful request that the proxy does not
// serve in the usual way: it has two for HTTP/1.1, and both must hold.
func aside(vectors []vector) []vector {
	all := make([]vector, len(vectors))
	for i, v := range vectors {
		v.name, v.most = "aside: "+v.name, v.most+1
		v.raw = "GET /ok/%N HTTP/1.1\r\nHost: orders\r\nConnection: X-Nothing\r\n\r\n" + v.raw
		if v.ok >= 0 {
			v.ok++
		}
		all[i] = v
	}
	return all
}

// refused are vectors of which nothing may arrive.
func refused(family string, raws map[string]string) []vector {
	var all []vector
	for name, raw := range raws {
		all = append(all, vector{name: family + ": " + name, raw: raw})
	}
	return all
}

func transferEncodings() []vector {
	const smuggled = "0\r\n\r\n" + inner
	var all []vector
	for _, field := range []string{
		"Transfer-Encoding: chunked, identity", "Transfer-Encoding: identity, chunked", "Transfer-Encoding: identity",
		"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity", "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked",
		"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", "Transfer-Encoding: chunked, chunked", "Transfer-Encoding: gzip, chunked",
		"Transfer-Encoding: xchunked", "Transfer-Encoding: chunkedx", "Transfer-Encoding: chunked;q=1", "Transfer-Encoding: \"chunked\"",
		"Transfer-Encoding: 'chunked'", "Transfer-Encoding:\x0bchunked", "Transfer-Encoding:\x0cchunked", "Transfer-Encoding: \x00chunked",
		"Transfer-Encoding : chunked", "Transfer-Encoding\t: chunked", " Transfer-Encoding: chunked", "X: y\r\n Transfer-Encoding: chunked",
		"Transfer-Encoding:\r\n chunked", "Transfer-Encoding: chunked\r\n x", "Transfer-Encoding: ,chunked", "Transfer-Encoding: chunked,",
		"Transfer-Encoding:", "Transfer-Encoding: c\rhunked", "Transfer-Encoding: chunke\xe4", "Transfer-Encoding\x00: chunked",
		"Transfer-Encoding: chunked\nX: y", "X: y\nTransfer-Encoding: chunked", "X: y\rTransfer-Encoding: chunked", "Transfer\x20Encoding: chunked",
	} {
		all = append(all,
			vector{name: "TE alone: " + field, raw: line + field + "\r\n\r\n" + smuggled},
			vector{name: "CL.TE: " + field, raw: line + fmt.Sprintf("Content-Length: %d\r\n", len(smuggled)+2) + field + "\r\n\r\n" + smuggled})
	}
	return append(all, refused("TE", map[string]string{
		"CL.TE":               line + "Content-Length: 60\r\nTransfer-Encoding: chunked\r\n\r\n" + smuggled,
		"TE.CL":               line + "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n5c\r\n" + inner + "\r\n0\r\n\r\n",
		"upper case and CL":   line + "TRANSFER-ENCODING: CHUNKED\r\ncontent-length: 3\r\n\r\n" + smuggled,
		"HTTP/1.0":            "POST /ok/%N HTTP/1.0\r\nHost: orders\r\nTransfer-Encoding: chunked\r\n\r\n" + smuggled,
		"HTTP/1.0 keep-alive": "POST /ok/%N HTTP/1.0\r\nHost: orders\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n" + smuggled,
	})...)
}

func contentLengths() []vector {
	var all []vector
	for _, field := range []string{
		"Content-Length: 0\r\nContent-Length: 50", "Content-Length: 50\r\nContent-Length: 0", "Content-Length: 0\r\nContent-Length: 0",
		"Content-Length: 0, 50", "Content-Length: 0,0", "Content-Length: +0", "Content-Length: -1", "Content-Length: -0", "Content-Length: 0x0",
		"Content-Length: 0 0", "Content-Length: 1e1", "Content-Length: ", "Content-Length:", "Content-Length: 0\x0b", "Content-Length: \x000",
		"Content-Length : 0", "Content-Length: 18446744073709551616", "Content-Length: 9223372036854775808", "Content-Length: 0;", "Content-Length: \"0\"",
		" Content-Length: 0", "Content-Length\x00: 0", "Content-Length: 0\r\n 50", "Content-Length: 0_0", "Content-Length: \xd9\xa0",
	} {
		all = append(all, vector{name: "CL: " + field, raw: line + field + "\r\n\r\n" + inner})
	}
	return append(all,
		// What follows a body of no length is another request, and is decided.
		vector{name: "CL.0", raw: line + "Content-Length: 0\r\n\r\n" + inner, most: 1, ok: 1},
		vector{name: "no length", raw: line + "\r\n" + inner, most: 1, ok: 1},
		vector{name: "GET with a body", raw: "GET /ok/%N HTTP/1.1\r\nHost: orders\r\nContent-Length: 5\r\n\r\nhello" + inner, most: 1, ok: 1},
		vector{name: "leading zeros", raw: line + "Content-Length: 005\r\n\r\nhello" + inner, most: 1, ok: 1},
		vector{name: "body that looks like a request", raw: line + "Content-Length: 47\r\n\r\nGET /admin/%N HTTP/1.1\r\nHost: orders\r\nX: y\r\n\r\n", most: 1, ok: -1},
	)
}

func heads() []vector {
	const get = "GET /ok/%N HTTP/1.1\r\nHost: orders\r\n"
	return append(refused("head", map[string]string{
		"bare LF everywhere":       strings.ReplaceAll("GET /ok/%N HTTP/1.1\r\nHost: orders\r\n\r\n", "\r\n", "\n") + inner,
		"bare LF after the line":   "GET /ok/%N HTTP/1.1\nHost: orders\r\n\r\n" + inner,
		"bare LF at the end":       get + "X: y\r\n\n" + inner,
		"bare LF in a value":       get + "X: y\nHost: admin\r\n\r\n",
		"bare CR in a value":       get + "X: y\rHost: admin\r\n\r\n",
		"CR CR LF":                 get + "X: y\r\r\n\r\n" + inner,
		"NUL in a value":           get + "X: a\x00b\r\n\r\n",
		"NUL in a name":            get + "X\x00Y: a\r\n\r\n",
		"DEL in a value":           get + "X: a\x7fb\r\n\r\n",
		"escape in a value":        get + "X: a\x1b[2Jb\r\n\r\n",
		"space in a name":          get + "X Y: a\r\n\r\n",
		"space before the colon":   get + "X : a\r\n\r\n",
		"folded":                   get + "X: a\r\n b\r\n\r\n",
		"folded with a tab":        get + "X: a\r\n\tHost: admin\r\n\r\n",
		"first field is folded":    "GET /ok/%N HTTP/1.1\r\n Host: orders\r\n\r\n",
		"no colon":                 get + "X\r\n\r\n",
		"empty name":               get + ": x\r\n\r\n",
		"name of other letters":    get + "\xc3\xa4: x\r\n\r\n",
		"parenthesis in a name":    get + "X(: x\r\n\r\n",
		"two hosts":                get + "Host: admin\r\n\r\n",
		"two equal hosts":          get + "Host: orders\r\n\r\n",
		"two hosts in two cases":   get + "hOsT: admin\r\n\r\n",
		"no host":                  "GET /ok/%N HTTP/1.1\r\n\r\n",
		"host with a space":        "GET /ok/%N HTTP/1.1\r\nHost: orders admin\r\n\r\n",
		"host with a slash":        "GET /ok/%N HTTP/1.1\r\nHost: orders/admin\r\n\r\n",
		"host with CR":             "GET /ok/%N HTTP/1.1\r\nHost: orders\r\r\n\r\n",
		"head without an end":      get + "X: y\r\n",
		"head of 70 KiB":           get + "X: " + strings.Repeat("y", 70<<10) + "\r\n\r\n",
		"ten thousand short lines": get + strings.Repeat("X: y\r\n", 12000) + "\r\n",
	}),
		vector{name: "head: lawful", raw: get + "X: y\r\n\r\n", most: 1, ok: 1},
		vector{name: "head: empty line first", raw: "\r\n" + get + "\r\n", most: 1, ok: 1},
		vector{name: "head: tab in a value", raw: get + "X: a\tb\r\n\r\n", most: 1, ok: 1},
		vector{name: "head: Connection names Host and framing", raw: line + "Content-Length: 5\r\nConnection: Host, Content-Length, Transfer-Encoding\r\n\r\nhello" + inner, most: 1, ok: 1},
	)
}

func requestLines() []vector {
	const host = "\r\nHost: orders\r\n\r\n"
	return append(refused("line", map[string]string{
		"HTTP/0.9":                "GET /ok/%N\r\n\r\n",
		"HTTP/1.2":                "GET /ok/%N HTTP/1.2" + host,
		"HTTP/2.0":                "GET /ok/%N HTTP/2.0" + host,
		"HTTP/1.10":               "GET /ok/%N HTTP/1.10" + host,
		"HTTP/1.1x":               "GET /ok/%N HTTP/1.1x" + host,
		"http/1.1":                "GET /ok/%N http/1.1" + host,
		"two spaces first":        "GET  /ok/%N HTTP/1.1" + host,
		"two spaces last":         "GET /ok/%N  HTTP/1.1" + host,
		"tab":                     "GET\t/ok/%N HTTP/1.1" + host,
		"space in the target":     "GET /ok/%N /admin HTTP/1.1" + host,
		"space at the end":        "GET /ok/%N HTTP/1.1 " + host,
		"CR in the target":        "GET /ok/%N\rx HTTP/1.1" + host,
		"NUL in the target":       "GET /ok/%N\x00 HTTP/1.1" + host,
		"no method":               " /ok/%N HTTP/1.1" + host,
		"braces in the method":    "{GET} /ok/%N HTTP/1.1" + host,
		"lower-case method":       "get /ok/%N HTTP/1.1" + host,
		"no path":                 "GET HTTP/1.1" + host,
		"path without a slash":    "GET ok/%N HTTP/1.1" + host,
		"absolute form":           "GET http://orders/ok/%N HTTP/1.1" + host,
		"absolute form elsewhere": "GET http://admin/ok/%N HTTP/1.1" + host,
		"absolute form with user": "GET http://orders@admin/ok/%N HTTP/1.1" + host,
		"scheme relative":         "GET //admin/ok/%N HTTP/1.1" + host,
		"fragment":                "GET /ok/%N#/admin HTTP/1.1" + host,
		"fragment in the query":   "GET /ok/%N?a#/admin HTTP/1.1" + host,
		"CONNECT":                 "CONNECT orders:80 HTTP/1.1" + host + inner,
		"CONNECT with a path":     "CONNECT /ok/%N HTTP/1.1" + host + inner,
		"OPTIONS *":               "OPTIONS * HTTP/1.1" + host,
		"preface of HTTP/2":       "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + inner,
		"TLS in TLS":              "\x16\x03\x01\x00\x05hello" + inner,
		"PROXY protocol":          "PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\nGET /ok/%N HTTP/1.1" + host,
		"a foreign method":        "TRACE /ok/%N HTTP/1.1" + host,
		"an endless method":       strings.Repeat("G", 100<<10),
	}),
		vector{name: "line: HTTP/1.0", raw: "GET /ok/%N HTTP/1.0\r\nHost: orders\r\n\r\n" + inner, most: 1, ok: 1},
		vector{name: "line: query", raw: "GET /ok/%N?a=/../admin;b=%2e HTTP/1.1" + host, most: 1, ok: 1},
		vector{name: "line: query with a raw quote", raw: "GET /ok/%N?a=\"b\" HTTP/1.1" + host, most: 1, ok: -1},
	)
}

func chunks() []vector {
	const head = line + "Transfer-Encoding: chunked\r\n\r\n"
	all := []vector{
		{name: "chunks: lawful", raw: head + "5\r\nhello\r\n0\r\n\r\n" + inner, most: 1, ok: 1},
		{name: "chunks: upper-case hexadecimal", raw: head + "A\r\n0123456789\r\n0\r\n\r\n" + inner, most: 1, ok: 1},
		{name: "chunks: extension", raw: head + "5;a=b\r\nhello\r\n0\r\n\r\n" + inner, most: 1, ok: -1},
		{name: "chunks: trailer", raw: head + "5\r\nhello\r\n0\r\nX: y\r\n\r\n" + inner, most: 1, ok: -1},
	}
	for name, body := range map[string]string{
		"bare LF after the size":   "5\nhello\r\n0\r\n\r\n",
		"bare LF after the data":   "5\r\nhello\n0\r\n\r\n",
		"bare LF at the end":       "5\r\nhello\r\n0\n\n",
		"bare CR after the size":   "5\rhello\r\n0\r\n\r\n",
		"extension with a bare LF": "5;a\nx\r\nhello\r\n0\r\n\r\n",
		"extension with a quote":   "5;a=\"\r\nhello\r\n0\r\n\r\n",
		"negative":                 "-5\r\nhello\r\n0\r\n\r\n",
		"plus":                     "+5\r\nhello\r\n0\r\n\r\n",
		"0x":                       "0x5\r\nhello\r\n0\r\n\r\n",
		"underscore":               "0_5\r\nhello\r\n0\r\n\r\n",
		"too large":                "ffffffffffffffff1\r\nhello\r\n0\r\n\r\n",
		"wraps around":             "10000000000000005\r\nhello\r\n0\r\n\r\n",
		"no size":                  "\r\nhello\r\n0\r\n\r\n",
		"space before the size":    " 5\r\nhello\r\n0\r\n\r\n",
		"space after the size":     "5 \r\nhello\r\n0\r\n\r\n",
		"tab after the size":       "5\t\r\nhello\r\n0\r\n\r\n",
		"data too long":            "5\r\nhello!\r\n0\r\n\r\n",
		"data too short":           "6\r\nhello\r\n0\r\n\r\n",
		"no end":                   "5\r\nhello\r\n",
		"zeros":                    "000000000000000000000\r\n\r\n",
		"trailer with a length":    "0\r\nContent-Length: 50\r\n\r\n",
		"trailer with an encoding": "0\r\nTransfer-Encoding: chunked\r\n\r\n",
		"trailer with a host":      "0\r\nHost: admin\r\n\r\n",
		"trailer with a bare LF":   "0\r\nX: y\nZ: w\r\n\r\n",
		"trailer without a colon":  "0\r\nGET /admin/%N HTTP/1.1\r\n\r\n",
	} {
		all = append(all, vector{name: "chunks: " + name, raw: head + body + inner, most: 1, ok: -1})
	}
	return all
}

func sequences() []vector {
	const get = "GET /ok/%N HTTP/1.1\r\nHost: orders\r\n"
	return []vector{
		{name: "pipeline of two", raw: get + "\r\n" + get + "\r\n", most: 2, ok: 2},
		{name: "pipeline with a denied one between", raw: get + "\r\n" + inner + get + "\r\n", most: 2, ok: 2},
		{name: "pipeline behind a body", raw: line + "Content-Length: 3\r\n\r\nabc" + inner + get + "\r\n", most: 2, ok: -1},
		{name: "pipeline behind chunks", raw: line + "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n" + inner + get + "\r\n", most: 2, ok: -1},
		{name: "smuggling behind chunks", raw: line + "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + line + "Content-Length: 60\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + inner, most: 1, ok: 1},
		{name: "bare LF behind chunks", raw: line + "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /ok/%N HTTP/1.1\nHost: orders\n\n" + inner, most: 1, ok: 1},
		{name: "a head in a body behind chunks", raw: line + "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + line + "Content-Length: 40\r\n\r\nGET / HTTP/1.1\r\nContent-Length: 999999\r\n\r\n", most: 2, ok: -1},
		{name: "Expect and an early body", raw: line + "Content-Length: 5\r\nExpect: 100-continue\r\n\r\nhello" + inner, most: 1, ok: 1},
		{name: "Expect of something else", raw: line + "Content-Length: 5\r\nExpect: 200-ok\r\n\r\nhello" + inner, most: 1, ok: -1},
		{name: "upgrade to h2c", raw: get + "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\nPRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", most: 1, ok: 1},
		{name: "WebSocket that is not accepted", raw: get + "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n" + inner, most: 1, ok: -1},
		{name: "WebSocket with a body", raw: line + "Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 5\r\n\r\nhello" + inner, most: 1, ok: -1},
		{name: "after Connection: close", raw: get + "Connection: close\r\n\r\n" + inner, most: 1, ok: 1},
		{name: "method override", raw: get + "X-HTTP-Method-Override: DELETE\r\nX-Original-URL: /admin\r\nX-Rewrite-URL: /admin\r\n\r\n", most: 1, ok: 1},
	}
}
