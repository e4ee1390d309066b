package egress

import (
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
)

// ReadAnswer takes the body of an answer that is to be a document: of status 200,
// no web page, as it is and not compressed, and at most so many bytes. No error
// holds any of the body: who can choose the URL must not be able to read answers
// that way. The caller closes the body.
func ReadAnswer(answer *http.Response, most int64) ([]byte, error) {
	kind, _, err := mime.ParseMediaType(answer.Header.Get("Content-Type"))
	switch {
	case answer.StatusCode >= 300 && answer.StatusCode < 400:
		return nil, fmt.Errorf("answered with a redirect (%d), which is not followed: write down where it leads", answer.StatusCode)
	case answer.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("answered with status %d", answer.StatusCode)
	case err == nil && (kind == "text/html" || kind == "application/xhtml+xml"):
		return nil, fmt.Errorf("answered with a web page (%s)", kind)
	case answer.Header.Get("Content-Encoding") != "":
		return nil, errors.New("answered in an encoding that was not asked for")
	case answer.ContentLength > most:
		return nil, fmt.Errorf("answered with %d bytes, at most %d are read", answer.ContentLength, most)
	}
	body, err := io.ReadAll(io.LimitReader(answer.Body, most+1))
	switch {
	case int64(len(body)) > most:
		return nil, fmt.Errorf("answered with more than %d bytes", most)
	case err != nil:
		return nil, fmt.Errorf("answered, and was cut off: %w", err)
	}
	return body, nil
}
