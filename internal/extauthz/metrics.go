package extauthz

import "github.com/prometheus/client_golang/prometheus"

// What became of a question, besides allow and deny.
const (
	malformedAnswer = "malformed" // it could not be read, or is none
	undefinedAnswer = "undefined" // about a document that there is not
)

func newAnswers() *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "kith_agent_answers_total", Help: "Answers to proxies and applications that ask for decisions: by envoy, proxy (auth_request and the like), opa, authzen.",
	}, []string{"way", "answer"})
}

// Collectors are what the service measures.
func (s *Service) Collectors() []prometheus.Collector { return []prometheus.Collector{s.answers} }

func (s *Service) count(way, answer string) { s.answers.WithLabelValues(way, answer).Inc() }

func (s *Service) countAnswer(way string, a Answer) {
	answer := "deny"
	if a.Allowed() {
		answer = "allow"
	}
	s.count(way, answer)
}
