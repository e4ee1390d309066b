package decisionlog

import (
	"encoding/json"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// The class of OCSF 1.3 and its words: API Activity, of Application Activity,
// with the profile of what a security control did.
const (
	ocsfVersion  = "1.3.0"
	ocsfCategory = 6
	ocsfClass    = 6003
)

type ocsfName struct {
	Name    string `json:"name,omitempty"`
	UID     string `json:"uid,omitempty"`
	Version string `json:"version,omitempty"`
	Type    string `json:"type,omitempty"`
}

type ocsfURL struct {
	Hostname string `json:"hostname,omitempty"`
	Path     string `json:"path,omitempty"`
	Query    string `json:"query_string,omitempty"`
	Port     uint32 `json:"port,omitempty"`
}

type ocsfHeader struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

type ocsfRequest struct {
	UID     string       `json:"uid"`
	Method  string       `json:"http_method,omitempty"`
	URL     ocsfURL      `json:"url"`
	Headers []ocsfHeader `json:"http_headers,omitempty"`
}

type ocsfEndpoint struct {
	Name    string `json:"name,omitempty"`
	UID     string `json:"uid,omitempty"`
	Service string `json:"svc_name,omitempty"`
	Port    uint32 `json:"port,omitempty"`
}

type ocsfUser struct {
	Name   string `json:"name,omitempty"`
	UID    string `json:"uid"`
	TypeID int    `json:"type_id"`
}

type ocsfEvent struct {
	Class    int    `json:"class_uid"`
	Category int    `json:"category_uid"`
	Activity int    `json:"activity_id"`
	Type     int    `json:"type_uid"`
	Severity int    `json:"severity_id"`
	Time     int64  `json:"time"`
	Duration int64  `json:"duration"`
	Status   int    `json:"status_id"`
	Detail   string `json:"status_detail"`
	Message  string `json:"message"`

	Action      int `json:"action_id"`
	Disposition int `json:"disposition_id"`

	Metadata struct {
		Version  string   `json:"version"`
		UID      string   `json:"uid"`
		Profiles []string `json:"profiles"`
		Product  struct {
			Name    string `json:"name"`
			Vendor  string `json:"vendor_name"`
			Version string `json:"version,omitempty"`
		} `json:"product"`
	} `json:"metadata"`
	Actor struct {
		User ocsfUser `json:"user"`
	} `json:"actor"`
	API struct {
		Operation string   `json:"operation"`
		Service   ocsfName `json:"service"`
		Request   ocsfName `json:"request"`
		Response  struct {
			Message string `json:"message"`
			Code    int    `json:"code"`
		} `json:"response"`
	} `json:"api"`
	Source      ocsfEndpoint      `json:"src_endpoint"`
	Destination ocsfEndpoint      `json:"dst_endpoint"`
	Request     *ocsfRequest      `json:"http_request,omitempty"`
	Policy      ocsfName          `json:"policy"`
	Rule        *ocsfName         `json:"firewall_rule,omitempty"`
	Unmapped    map[string]string `json:"unmapped"`
}

// ocsfLine is an entry as an event of OCSF.
func ocsfLine(e *entry) ([]byte, error) {
	var o ocsfEvent
	o.Class, o.Category, o.Activity = ocsfClass, ocsfCategory, ocsfActivity(e.method)
	o.Type, o.Severity = o.Class*100+o.Activity, 1
	o.Time, o.Duration = e.time.UnixMilli(), e.took.Milliseconds()
	o.Status, o.Detail, o.Action, o.Disposition, o.API.Response.Code = 1, e.reason, 1, 1, 200
	if !e.allowed() {
		o.Severity, o.Status, o.Action, o.Disposition, o.API.Response.Code = 2, 2, 2, 2, ocsfCode(e.reason)
	}
	if e.mode == "observe" {
		o.Disposition = 17 // Logged: it would be blocked
	}
	o.Message = strings.TrimSpace(e.effect + " " + e.method + " " + e.path)
	o.Metadata.Version, o.Metadata.UID, o.Metadata.Profiles = ocsfVersion, e.id, []string{"security_control"}
	o.Metadata.Product.Name, o.Metadata.Product.Vendor, o.Metadata.Product.Version = "Kith", "Kith", e.version
	o.Actor.User = ocsfUser{UID: e.from, TypeID: 3} // System: a program
	if e.from == "" {
		o.Actor.User = ocsfUser{Name: "anonymous", UID: "anonymous"}
	}
	o.API.Operation, o.API.Service, o.API.Request.UID = e.operation(), ocsfName{Name: e.to, UID: e.toID}, e.id
	o.API.Response.Message = e.reason
	o.Source = ocsfEndpoint{UID: o.Actor.User.UID}
	o.Destination = ocsfEndpoint{Name: e.host, UID: e.toID, Service: e.to, Port: e.port}
	if e.method != "" {
		o.Request = &ocsfRequest{UID: e.id, Method: e.method, URL: ocsfURL{Hostname: e.host, Path: e.path, Query: queryOf(e.query), Port: e.port}}
		for _, name := range slices.Sorted(maps.Keys(e.headers)) {
			o.Request.Headers = append(o.Request.Headers, ocsfHeader{name, e.headers[name]})
		}
	}
	o.Policy = ocsfName{Name: e.to, Version: strconv.FormatUint(e.revision, 10)}
	if e.rule != "" {
		o.Rule = &ocsfName{Name: e.rule, Type: e.effect}
	}
	o.Unmapped = e.unmapped()
	return json.Marshal(o)
}

// operation is what was asked for.
func (e *entry) operation() string {
	if e.method == "" {
		return e.protocol + " connect"
	}
	return e.method + " " + e.path
}

// unmapped is what OCSF has no place for.
func (e *entry) unmapped() map[string]string {
	out := map[string]string{"mode": e.mode, "node": e.node, "protocol": e.protocol, "duration_ns": strconv.FormatInt(e.took.Nanoseconds(), 10)}
	if e.nearField != "" {
		out["near_rule"], out["near_field"] = e.nearRule, e.nearField
	}
	if e.shadow != nil {
		out["shadow_effect"], out["shadow_rule"], out["shadow_reason"] = e.shadow.Effect, e.shadow.Rule, e.shadow.Reason
	}
	for name, value := range e.claims {
		out["claim."+name] = value
	}
	return out
}

func ocsfActivity(method string) int {
	switch method {
	case "POST":
		return 1
	case "GET", "HEAD", "OPTIONS":
		return 2
	case "PUT", "PATCH":
		return 3
	case "DELETE":
		return 4
	default:
		return 99
	}
}

func ocsfCode(reason string) int {
	switch reason {
	case "path_not_canonical":
		return 400
	case "token_missing", "token_invalid":
		return 401
	default:
		return 403
	}
}

func queryOf(query map[string]string) string {
	values := url.Values{}
	for name, value := range query {
		values.Set(name, value)
	}
	return values.Encode()
}
