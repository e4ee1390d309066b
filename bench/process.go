package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/kith-id/kith/internal/pb"
)

// process is a program that this run has started.
type process struct {
	cmd  *exec.Cmd
	out  *output
	done chan struct{}
}

// output keeps what a program says, for when it fails.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

// Write takes what fits into 64 KiB.
func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.b.Len() < 64<<10 {
		o.b.Write(p)
	}
	return len(p), nil
}

func (o *output) text() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// start runs a program in a process group of its own.
func start(ctx context.Context, env []string, dir, name string, args ...string) (*process, error) {
	p := &process{cmd: exec.CommandContext(ctx, name, args...), out: &output{}, done: make(chan struct{})}
	p.cmd.Env, p.cmd.Dir = env, dir
	p.cmd.Stdout, p.cmd.Stderr = p.out, p.out
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go func() { _ = p.cmd.Wait(); close(p.done) }()
	return p, nil
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// stop ends the program and all it has started.
func (p *process) stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(15 * time.Second):
	}
	_ = syscall.Kill(-p.pid(), syscall.SIGKILL)
	<-p.done
}

// until asks again until ok, or the program has ended, or the limit is over.
func (p *process) until(limit time.Duration, ok func() error) error {
	deadline := time.Now().Add(limit)
	for {
		err := ok()
		if err == nil {
			return nil
		}
		select {
		case <-p.done:
			return fmt.Errorf("%s ended:\n%s", strings.Join(p.cmd.Args, " "), p.out.text())
		case <-time.After(2 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s: %w\n%s", strings.Join(p.cmd.Args, " "), err, p.out.text())
		}
	}
}

// accepts waits until a program listens at an address.
func (p *process) accepts(network, address string) error {
	return p.until(30*time.Second, func() error {
		conn, err := net.DialTimeout(network, address, time.Second)
		if err == nil {
			conn.Close()
		}
		return err
	})
}

// freePort is a port of 127.0.0.1 that was free a moment ago.
func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// domain is a trust domain of real processes: kith server with its store, and
// one kith agent where it was asked for.
type domain struct {
	b      *bench
	dir    string
	env    []string
	server *process
	agent  *process
	conn   *grpc.ClientConn
	admin  pb.AdminClient
}

const trustDomain = "bench.example"

// startDomain starts a server on an empty state directory.
func startDomain(ctx context.Context, b *bench, name string) (*domain, error) {
	dir, err := b.dir(name)
	if err != nil {
		return nil, err
	}
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	d := &domain{b: b, dir: dir}
	yaml := fmt.Sprintf("trust_domain: %s\nserver: {listen: \"127.0.0.1:%d\", metrics: \"\"}\nagent: {metrics: \"\"}\nlog: {level: warn}\n", trustDomain, port)
	if err := os.WriteFile(filepath.Join(dir, "kith.yaml"), []byte(yaml), 0o644); err != nil {
		return nil, err
	}
	for _, kv := range os.Environ() {
		if low := strings.ToLower(kv); !strings.HasPrefix(low, "kith_") && !strings.Contains(strings.SplitN(low, "=", 2)[0], "_proxy") && !strings.HasPrefix(low, "spiffe_") {
			d.env = append(d.env, kv)
		}
	}
	d.env = append(d.env, "KITH_STATE_DIR="+filepath.Join(dir, "state"), "KITH_RUN_DIR="+filepath.Join(dir, "run"), "KITH_CONFIG="+filepath.Join(dir, "kith.yaml"))
	d.conn, err = grpc.NewClient("unix://"+filepath.Join(dir, "run", "admin.sock"), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20), grpc.MaxCallSendMsgSize(64<<20)),
		grpc.WithConnectParams(grpc.ConnectParams{MinConnectTimeout: time.Second}))
	if err != nil {
		return nil, err
	}
	d.admin = pb.NewAdminClient(d.conn)
	return d, d.startServer(ctx)
}

// startServer starts the server and returns when it answers.
func (d *domain) startServer(ctx context.Context) (err error) {
	if d.server, err = start(ctx, d.env, d.dir, d.b.kith, "server"); err != nil {
		return err
	}
	return d.server.until(90*time.Second, func() error {
		d.conn.ResetConnectBackoff()
		_, err := d.admin.Status(ctx, &pb.StatusRequest{})
		return err
	})
}

// startAgent joins this host as a node of class vms and starts its agent.
func (d *domain) startAgent(ctx context.Context) error {
	added, err := d.admin.AddNode(ctx, &pb.AddNodeRequest{Name: "host", Class: "vms"})
	if err != nil {
		return err
	}
	join := exec.CommandContext(ctx, d.b.kith, "join", added.GetJoin())
	join.Env, join.Dir = d.env, d.dir
	if out, err := join.CombinedOutput(); err != nil {
		return fmt.Errorf("kith join: %w\n%s", err, out)
	}
	if d.agent, err = start(ctx, d.env, d.dir, d.b.kith, "agent"); err != nil {
		return err
	}
	return d.agent.accepts("unix", d.agentSocket())
}

func (d *domain) agentSocket() string { return filepath.Join(d.dir, "run", "agent.sock") }

// stop ends everything, last started first.
func (d *domain) stop() {
	for _, p := range []*process{d.agent, d.server} {
		if p != nil {
			p.stop()
		}
	}
	d.conn.Close()
}

// serverPIDs are the server and its store.
func (d *domain) serverPIDs() (server, store []int) {
	return []int{d.server.pid()}, childrenOf(d.server.pid())
}

// apply changes applied state and waits for the agents.
func (d *domain) apply(ctx context.Context, objects ...*pb.Object) (*pb.ChangeResult, error) {
	return d.admin.Apply(ctx, &pb.ApplyRequest{Put: objects, Wait: durationpb.New(10 * time.Second)})
}

func serviceObject(name, protocol string, runAs ...string) *pb.Object {
	return &pb.Object{Kind: &pb.Object_Service{Service: &pb.Service{
		Name: name, Identities: []string{"/vms/" + name}, Protocol: protocol, RunAs: runAs,
	}}}
}

func ruleObject(name, from, to string, allow ...string) *pb.Object {
	return &pb.Object{Kind: &pb.Object_Rule{Rule: &pb.Rule{Name: name, From: []string{from}, To: to, Allow: allow}}}
}

func identityObject(name, id string) *pb.Object {
	return &pb.Object{Kind: &pb.Object_IdentityRule{IdentityRule: &pb.IdentityRule{Name: name, Nodes: []string{"vms"}, Id: id}}}
}

// helper is this binary in another role, as another user where uid is not 0.
type helper struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *json.Decoder
}

func startHelper(ctx context.Context, uid uint32, args ...string) (*helper, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	h := &helper{cmd: exec.CommandContext(ctx, self, args...)}
	h.cmd.Stderr, h.cmd.Dir = os.Stderr, "/"
	h.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if uid != 0 {
		h.cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uid, Gid: uid}
	}
	if h.in, err = h.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := h.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	h.out = json.NewDecoder(out)
	return h, h.cmd.Start()
}

func (h *helper) pid() int { return h.cmd.Process.Pid }

// ask sends a line and reads the answer.
func (h *helper) ask(answer any, format string, args ...any) error {
	if _, err := fmt.Fprintf(h.in, format+"\n", args...); err != nil {
		return err
	}
	return h.hear(answer)
}

func (h *helper) hear(answer any) error {
	if err := h.out.Decode(answer); err != nil {
		return fmt.Errorf("%s: %w", strings.Join(h.cmd.Args[1:], " "), err)
	}
	return nil
}

func (h *helper) stop() error {
	h.in.Close()
	err := h.cmd.Wait()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() < 0 {
		return nil
	}
	return err
}
