package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"

	collectorpb "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	"google.golang.org/grpc"
)

// collects is a collector that appends what it gets to a file.
type collects struct {
	collectorpb.UnimplementedLogsServiceServer
	path string
}

func (c *collects) Export(_ context.Context, in *collectorpb.ExportLogsServiceRequest) (*collectorpb.ExportLogsServiceResponse, error) {
	out, err := os.OpenFile(c.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	_, err = fmt.Fprintln(out, in)
	return &collectorpb.ExportLogsServiceResponse{}, err
}

// serveCollector takes OTLP logs on a port of loopback: collector PORT FILE.
func serveCollector(args []string) int {
	listener, err := net.Listen("tcp", "127.0.0.1:"+args[0])
	if err == nil {
		server := grpc.NewServer()
		collectorpb.RegisterLogsServiceServer(server, &collects{path: args[1]})
		err = server.Serve(listener)
	}
	fmt.Fprintln(os.Stderr, err)
	return 1
}

// The page runs with a real proxy, real files and a real collector: the id on the
// 403 is in all of them, and nowhere is the secret of the request.
func TestDecisionLogPageRuns(t *testing.T) {
	t.Parallel()
	script, env := page(t, "decision-log.md", "4317", "8443", "8080")
	logs := t.TempDir()
	script = strings.ReplaceAll(script, "/var/log/kith", logs)
	env["LOGS"] = logs
	commands, files, _ := strings.Cut(script, "-- kith.yaml --")
	commands += `eventually grep -f id $LOGS/otlp
! exec grep -r -e s3cret -e Ada $LOGS
exec ls $LOGS
cmp stdout three
-- three --
ocsf.jsonl
opa.jsonl
otlp
`
	setup := "env KITH_CONFIG=$WORK/kith.yaml\nexec collector $PORT4317 $LOGS/otlp &\nexec kith dev &dev&\neventually kith status\n"
	runPage(t, setup, commands+"-- kith.yaml --"+files, env)
}
