package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/kith-id/kith"
	"github.com/kith-id/kith/internal/fault"
)

// curl's own exit codes, for the ends that scripts test.
const (
	curlFailed  = 22 // -f, and the answer was 400 or above
	curlTimeout = 28
)

// curlFlags are curl's, as far as they make sense here.
type curlFlags struct {
	as, method, output, writeOut string
	data, binary, json           []string
	headers                      []string
	include, head, verbose       bool
	fail, silent, http1, follow  bool
	seconds                      float64
}

// curlVerb calls a service as another one would.
func (a *app) curlVerb() *cobra.Command {
	f := &curlFlags{}
	cmd := &cobra.Command{
		Use: "curl --as NAME http://SERVICE/PATH", Short: "call a service, as the one you name", Args: exactly(1),
		Long: `Call a service with the identity of another one that you may claim, over mutual
TLS. The usual flags of curl mean what they mean there, and so does the exit code:
0 whatever the answer is, 22 with -f. A denial is explained: which rule, or that
there is none, and the one line that would allow it.`,
		Example: `  kith curl --as web http://orders/v1/orders
  kith curl --as web -X POST -d '{"item": 7}' -H 'content-type: application/json' http://orders/v1/orders
  kith curl --as web -f -s -o /dev/null -w '%{http_code}\n' http://orders/v1/orders`,
	}
	f.add(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		req, err := f.request(a, cmd, args[0])
		if err != nil {
			return err
		}
		return a.curl(cmd.Context(), f, req)
	}
	return cmd
}

func (f *curlFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.as, "as", "", "the service to be")
	flags.StringVarP(&f.method, "request", "X", "", "the method (default GET, or POST with data)")
	flags.StringArrayVarP(&f.data, "data", "d", nil, "send this, @file for a file without its line breaks")
	flags.StringArrayVar(&f.binary, "data-binary", nil, "send this, @file for a file as it is")
	flags.StringArrayVar(&f.json, "json", nil, "send this JSON, with the headers for it")
	flags.StringArrayVarP(&f.headers, "header", "H", nil, `add a header, "Name: value"`)
	flags.StringVarP(&f.output, "output", "o", "", "write the body to this file")
	flags.StringVarP(&f.writeOut, "write-out", "w", "", `print this afterwards; %{http_code}, %{http_version}, %{size_download}`)
	flags.BoolVarP(&f.include, "include", "i", false, "print the response's headers too")
	flags.BoolVarP(&f.head, "head", "I", false, "ask for the headers only")
	flags.BoolVarP(&f.verbose, "verbose", "v", false, "show both heads and who answered")
	flags.BoolVarP(&f.fail, "fail", "f", false, "exit 22, without a body, when the answer is 400 or above")
	flags.BoolVarP(&f.silent, "silent", "s", false, "no explanation of a denial")
	flags.BoolVarP(&f.follow, "location", "L", false, "follow redirects")
	flags.BoolVar(&f.http1, "http1.1", false, "speak HTTP/1.1 (default: HTTP/2 where the other side has it)")
	flags.Bool("http2", true, "speak HTTP/2 where the other side has it")
	flags.Float64VarP(&f.seconds, "max-time", "m", 0, "give up after this many seconds")
	flags.BoolP("show-error", "S", true, "errors are always shown")
	_ = flags.MarkHidden("show-error")
}

// request makes the request that the command line describes.
func (f *curlFlags) request(a *app, cmd *cobra.Command, target string) (*http.Request, error) {
	if !strings.Contains(target, "://") {
		target = "http://" + target
	}
	u, err := url.Parse(target)
	if err != nil || u.Host == "" {
		return nil, usagef(cmd, "%q is no URL", target)
	}
	if u.Scheme != "http" {
		return nil, fault.Hint(fault.Invalidf("%s: a service is called by http; kith makes it mutual TLS", target),
			"kith curl http://%s%s", u.Host, u.EscapedPath())
	}
	body, err := f.body(a)
	if err != nil {
		return nil, err
	}
	method := f.method
	switch {
	case method != "":
	case f.head:
		method = http.MethodHead
	case body != nil:
		method = http.MethodPost
	default:
		method = http.MethodGet
	}
	var reader io.Reader
	if body != nil {
		reader = strings.NewReader(*body)
	}
	req, err := http.NewRequestWithContext(cmd.Context(), method, u.String(), reader)
	if err != nil {
		return nil, usagef(cmd, "%v", err)
	}
	return req, f.setHeaders(cmd, req, body != nil)
}

func (f *curlFlags) setHeaders(cmd *cobra.Command, req *http.Request, hasBody bool) error {
	req.Header.Set("User-Agent", "kith-curl")
	req.Header.Set("Accept", "*/*")
	if hasBody {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	if len(f.json) > 0 {
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Accept", "application/json")
	}
	for _, line := range f.headers {
		name, value, ok := strings.Cut(line, ":")
		if !ok || strings.TrimSpace(name) == "" {
			return usagef(cmd, `header %q; want "Name: value"`, line)
		}
		name, value = strings.TrimSpace(name), strings.TrimSpace(value)
		switch {
		case strings.EqualFold(name, "host"):
			req.Host = value
		case value == "":
			req.Header.Del(name)
		default:
			req.Header.Set(name, value)
		}
	}
	return nil
}

// body joins the data flags, nil without any.
func (f *curlFlags) body(a *app) (*string, error) {
	var parts []string
	read := func(list []string, join func(string) string) error {
		for _, text := range list {
			if name, ok := strings.CutPrefix(text, "@"); ok {
				data, err := a.readFile(name)
				if err != nil {
					return err
				}
				text = join(string(data))
			}
			parts = append(parts, text)
		}
		return nil
	}
	same := func(text string) string { return text }
	oneLine := func(text string) string { return strings.NewReplacer("\r", "", "\n", "").Replace(text) }
	if err := errors.Join(read(f.data, oneLine), read(f.binary, same), read(f.json, same)); err != nil {
		return nil, err
	}
	if len(parts) == 0 {
		return nil, nil
	}
	sep := "&"
	if len(f.json) > 0 {
		sep = ""
	}
	joined := strings.Join(parts, sep)
	return &joined, nil
}

// maxUpload bounds what -d @file reads into memory.
const maxUpload = 64 << 20

// readFile reads a bounded file, or standard input for "-".
func (a *app) readFile(name string) ([]byte, error) {
	in := a.stdin
	if name != "-" {
		file, err := os.Open(name)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fault.NotFoundf("there is no file %s", name)
		}
		if err != nil {
			return nil, err
		}
		defer file.Close()
		in = file
	}
	data, err := io.ReadAll(io.LimitReader(in, maxUpload+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	if len(data) > maxUpload {
		return nil, fault.Invalidf("%s is larger than %d MiB", name, maxUpload>>20)
	}
	return data, nil
}

// curl sends the request, prints the answer and explains a denial.
func (a *app) curl(ctx context.Context, f *curlFlags, req *http.Request) error {
	w, err := a.open(ctx, kith.Config{As: f.as, Calls: true})
	if err != nil {
		return err
	}
	defer w.Close()
	client := &http.Client{Transport: w.Transport(), Timeout: time.Duration(f.seconds * float64(time.Second))}
	if f.http1 {
		client.Transport = http1(w)
	}
	if !f.follow {
		client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	}
	if f.verbose {
		a.printRequest(w, req)
	}
	resp, err := client.Do(req)
	if err != nil {
		return a.curlError(req, err)
	}
	defer resp.Body.Close()
	if err := a.printResponse(f, resp); err != nil {
		return err
	}
	if id := resp.Header.Get(decisionHeader); id != "" && resp.StatusCode >= 400 && !f.silent {
		a.explainDenial(ctx, f.as, id)
	}
	if f.fail && resp.StatusCode >= 400 {
		return exitError(curlFailed)
	}
	return nil
}

// http1 speaks HTTP/1.1 inside the mutual TLS connection.
func http1(w *kith.Workload) http.RoundTripper {
	return &http.Transport{
		DisableKeepAlives:  true,
		DisableCompression: true,
		DialContext: func(ctx context.Context, _, address string) (net.Conn, error) {
			service, _, err := net.SplitHostPort(address)
			if err != nil {
				return nil, err
			}
			return w.Dial(ctx, service, "http/1.1")
		},
	}
}

// curlError takes the wrapping of net/http off.
func (a *app) curlError(req *http.Request, err error) error {
	var wrapped *url.Error
	if errors.As(err, &wrapped) {
		if wrapped.Timeout() {
			fmt.Fprintf(a.stderr, "error: %s did not answer in time\n", req.URL.Host)
			return exitError(curlTimeout)
		}
		err = wrapped.Err
	}
	var unknown *kith.UnknownServiceError
	var nobody *kith.NoEndpointError
	host := req.URL.Hostname()
	switch {
	case fault.HintOf(err) != "":
		return err
	case errors.As(err, &unknown):
		return fault.Hint(fault.Wrap(fault.NotFound, err), "kith services list")
	case errors.As(err, &nobody):
		return fault.Hint(err, "kith run --as %s --expose 8443=8080 -- ./%s", host, host)
	default:
		return fault.Hint(err, "kith doctor")
	}
}

func (a *app) printRequest(w *kith.Workload, req *http.Request) {
	fmt.Fprintf(a.stderr, "* as %s\n> %s %s\n> Host: %s\n", w.ID(), req.Method, req.URL.RequestURI(), req.URL.Host)
	a.printHeaders(a.stderr, "> ", req.Header)
	fmt.Fprintln(a.stderr, ">")
}

func (a *app) printHeaders(w io.Writer, mark string, h http.Header) {
	names := make([]string, 0, len(h))
	for name := range h {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		for _, value := range h[name] {
			fmt.Fprintf(w, "%s%s: %s\n", mark, strings.ToLower(name), value)
		}
	}
}

func (a *app) printResponse(f *curlFlags, resp *http.Response) error {
	if f.verbose {
		fmt.Fprintf(a.stderr, "< %s %s\n", resp.Proto, resp.Status)
		a.printHeaders(a.stderr, "< ", resp.Header)
		fmt.Fprintln(a.stderr, "<")
	}
	out := a.stdout
	if f.output != "" {
		file, err := os.Create(f.output)
		if err != nil {
			return err
		}
		defer file.Close()
		out = file
	}
	if f.include || f.head {
		fmt.Fprintf(out, "%s %s\r\n", resp.Proto, resp.Status)
		a.printHeaders(out, "", resp.Header)
		fmt.Fprint(out, "\r\n")
	}
	var size int64
	if !f.fail || resp.StatusCode < 400 {
		var err error
		if size, err = io.Copy(out, resp.Body); err != nil {
			return fmt.Errorf("read the answer: %w", err)
		}
	}
	if f.writeOut != "" {
		fmt.Fprint(a.stdout, strings.NewReplacer(
			"%{http_code}", fmt.Sprint(resp.StatusCode),
			"%{http_version}", strings.TrimSuffix(strings.TrimPrefix(resp.Proto, "HTTP/"), ".0"),
			"%{size_download}", fmt.Sprint(size), `\n`, "\n", `\t`, "\t",
		).Replace(f.writeOut))
	}
	return nil
}
