// Package kith is the Go SDK of Kith: it gives a program its identity, calls
// and serves other services over mutual TLS, and decides each request by the
// same policy as the proxy, all inside the process and without a hop. It talks
// to the agent on this node only; it issues nothing and stores nothing.
//
// # A client
//
//	w, err := kith.Open(ctx, kith.Config{As: "web"})
//	if err != nil { … }
//	defer w.Close()
//	res, err := w.Client().Get("http://orders/v1/orders")
//
// A bare host name is the name of a service. Where it runs and which identity
// must answer come from the directory the agent keeps, never from DNS. The
// scheme is http because the program speaks plain HTTP to the SDK; what leaves
// the process is TLS 1.3.
//
// # A server
//
//	err = w.Serve(ctx, handler, ":8443")
//
// Serve asks each caller for its identity, decides each request, answers 403
// with a decision id where policy says no, and hands the rest to the handler.
// [Identity] tells the handler who is calling, [CallerOf] also by which rule.
// [Workload.Handler] and [Workload.Listener] are the two halves of Serve for
// programs that bring their own [net/http.Server].
//
// # gRPC
//
//	conn, err := w.GRPCClient("ledger") // or grpc.NewClient("kith:///ledger", w.GRPCDialOptions()...)
//
//	server := w.GRPCServer()
//	ledgerpb.RegisterLedgerServer(server, ledger)
//	err = w.ServeGRPC(ctx, server, ":8444")
//
// Each method is decided, as in `kith allow teller "grpc ledger.v1.Ledger/Book"
// on ledger`; a denial is status PermissionDenied with a decision id. A program
// with a grpc.Server of its own takes [Workload.GRPCCredentials] together with
// [Workload.UnaryInterceptor] and [Workload.StreamInterceptor].
//
// # A check of one's own
//
// [WithAuthorizer] puts code of the service on top of policy, for what rules
// cannot know. It is asked about what policy allows and can only deny.
//
// # What happens by itself
//
// Identity is renewed and policy replaced while requests go on: both are
// immutable values behind atomic pointers. A new policy holds from the next
// request on every open connection, and exchanges that live long (upgraded
// connections, gRPC streams, raw TCP) are decided again and cut when they are
// denied now. With the agent away a Workload goes on from memory until its
// SVID ends, and comes back by itself. Without identity or policy it refuses.
package kith
