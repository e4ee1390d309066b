package main

import (
	"crypto/x509"
	"fmt"
	"os"

	"github.com/kith-id/kith/internal/config"
	"github.com/kith-id/kith/internal/decisionlog"
	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/pb"
)

// decisionLog is what kith.yaml says of it, in its own terms.
func decisionLog(from config.DecisionLog) (decisionlog.Config, error) {
	file := func(f config.LogFile) decisionlog.File {
		return decisionlog.File{Path: f.Path, Size: int64(f.Size), Files: f.Files}
	}
	cfg := decisionlog.Config{
		Sample: &pb.DecisionLog{
			Allows: float64(from.Allows), Headers: from.Headers, Query: from.Query, Claims: from.Claims,
			MaskHeaders: from.Mask.Headers, MaskQuery: from.Mask.Query, MaskClaims: from.Mask.Claims,
		},
		Templates: from.Path != "raw", OCSF: file(from.OCSF), OPA: file(from.OPA),
		OTLP: decisionlog.Collector{Endpoint: from.OTLP.Endpoint},
	}
	if err := cfg.OTLP.Check(); err != nil {
		return cfg, fault.Invalidf("agent.decision_log.otlp.endpoint: %w", err)
	}
	if from.OTLP.CAFile == "" {
		return cfg, nil
	}
	text, err := os.ReadFile(from.OTLP.CAFile)
	if err != nil {
		return cfg, fmt.Errorf("agent.decision_log.otlp.ca_file: %w", err)
	}
	cfg.OTLP.Roots = x509.NewCertPool()
	if !cfg.OTLP.Roots.AppendCertsFromPEM(text) {
		return cfg, fault.Invalidf("agent.decision_log.otlp.ca_file: %s holds no certificate in PEM", from.OTLP.CAFile)
	}
	return cfg, nil
}
