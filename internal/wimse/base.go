package wimse

import (
	"errors"
	"fmt"
	"strings"
)

// signatureBase is the text that is signed. RFC 9421 2.5.
func signatureBase(in input, m Message) ([]byte, error) {
	var out strings.Builder
	for _, c := range in.components {
		value, err := valueOf(c.name, m)
		if err != nil {
			return nil, err
		}
		out.WriteString(quote(c.name) + ": " + value + "\n")
	}
	out.WriteString(`"@signature-params": ` + in.raw)
	return []byte(out.String()), nil
}

// valueOf is the value of a component of a request. RFC 9421 2.1, 2.2.
func valueOf(name string, m Message) (string, error) {
	switch name {
	case "@method":
		return m.Method, plain(m.Method)
	case "@request-target":
		return m.Target, nil
	case "@path":
		return pathOf(m.Target), nil
	case "@query":
		return queryOf(m.Target), nil
	case "@authority":
		return strings.ToLower(m.Host), plain(m.Host)
	}
	if strings.HasPrefix(name, "@") || name == "" || name != strings.ToLower(name) {
		return "", fmt.Errorf("the component %.64q is not one of a request here", name)
	}
	if name == strings.ToLower(SignatureField) || name == strings.ToLower(InputField) {
		return "", errors.New("a signature that covers signatures is not read")
	}
	values := m.Fields.Values(name)
	if len(values) == 0 {
		return "", fmt.Errorf("the signature covers %.64q, which the request does not have", name)
	}
	trimmed := make([]string, len(values))
	for i, value := range values {
		trimmed[i] = strings.Trim(value, " \t")
		if err := plain(trimmed[i]); err != nil {
			return "", fmt.Errorf("%.64q: %w", name, err)
		}
	}
	return strings.Join(trimmed, ", "), nil
}
