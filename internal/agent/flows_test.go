package agent

import (
	"fmt"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/kith-id/kith/internal/pb"
)

func flowOf(path string, count uint64, last int64) *pb.Flow {
	return &pb.Flow{
		From: "spiffe://acme.example/web", To: "claimed", Protocol: "http", Method: "GET", Template: path,
		Effect: "allow", Rule: "r", Reason: "allow_rule", Count: count, FirstUnix: 1, LastUnix: last, Samples: []string{path},
	}
}

func TestFlowsOfSeveralPointsAreMerged(t *testing.T) {
	t.Parallel()
	var table flowTable
	table.add("orders", &pb.FlowReport{Flows: []*pb.Flow{flowOf("/a", 2, 10), flowOf("/b", 1, 11)}})
	table.add("orders", &pb.FlowReport{Flows: []*pb.Flow{flowOf("/a", 3, 20)}, Uncounted: 4})
	table.add("billing", &pb.FlowReport{Flows: []*pb.Flow{flowOf("/a", 7, 30)}})
	got := table.answer(&pb.FlowQuery{Query: 9, To: "orders"})
	if len(got.GetFlows()) != 2 || got.GetFlows()[0].GetCount() != 5 || got.GetFlows()[0].GetTo() != "orders" || got.GetUncounted() != 4 || got.GetQuery() != 9 {
		t.Errorf("got %v", got)
	}
	if all := table.answer(&pb.FlowQuery{}); len(all.GetFlows()) != 3 {
		t.Errorf("got %d flows to all services, want 3", len(all.GetFlows()))
	}
}

func TestFlowTableIsBoundedAndKeepsTheLatest(t *testing.T) {
	t.Parallel()
	var table flowTable
	for i := range maxNodeFlows + 10 {
		table.add("orders", &pb.FlowReport{Flows: []*pb.Flow{flowOf(fmt.Sprintf("/p%dx", i), 1, int64(i))}})
	}
	if len(table.all) > maxNodeFlows {
		t.Errorf("got %d flows, want at most %d", len(table.all), maxNodeFlows)
	}
	answer := table.answer(&pb.FlowQuery{})
	if want := fmt.Sprintf("/p%dx", maxNodeFlows+9); answer.GetFlows()[0].GetTemplate() != want {
		t.Errorf("got %s first, want the latest, %s", answer.GetFlows()[0].GetTemplate(), want)
	}
	if n := proto.Size(answer); n > 4<<20 {
		t.Errorf("an answer of %d bytes does not fit a message", n)
	}
}

func TestFlowsThatMakeNoSenseAreOnlyCounted(t *testing.T) {
	t.Parallel()
	var table flowTable
	bad := []*pb.Flow{flowOf("/a", 1, 1), flowOf("/a", 1, 1), flowOf("/a", 1, 1), flowOf("/a", 1, 1), {Count: 1}}
	bad[0].Protocol = "smtp"
	bad[1].From = "web"
	bad[2].Samples = nil
	bad[3].Rule = strings.Repeat("r", 4*maxFlowText)
	table.add("orders", &pb.FlowReport{Flows: bad})
	if len(table.all) != 0 || table.uncounted != 5 {
		t.Errorf("got %d flows and %d uncounted, want 0 and 5", len(table.all), table.uncounted)
	}
}

func FuzzFlowReports(f *testing.F) {
	seed, _ := proto.Marshal(&pb.FlowReport{Flows: []*pb.Flow{flowOf("/v1/orders/{id}", 3, 9)}})
	f.Add(seed)
	f.Fuzz(func(t *testing.T, wire []byte) {
		report := &pb.FlowReport{}
		if proto.Unmarshal(wire, report) != nil {
			return
		}
		var table flowTable
		table.add("orders", report)
		for _, flow := range table.answer(&pb.FlowQuery{}).GetFlows() {
			if flow.GetTo() != "orders" {
				t.Errorf("a flow to %q, which the point does not answer for", flow.GetTo())
			}
		}
	})
}
