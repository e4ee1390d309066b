package run

import (
	"fmt"
	"log/slog"
	"net"
	"time"
)

// Notifier tells systemd (sd_notify(3), Type=notify) how the program is doing.
// The zero Notifier tells nobody.
type Notifier struct {
	socket string
}

// NewNotifier takes the socket from NOTIFY_SOCKET; without the variable nobody is told.
func NewNotifier(getenv func(string) string) Notifier {
	return Notifier{socket: getenv("NOTIFY_SOCKET")}
}

// Ready says that the program serves.
func (n Notifier) Ready(log *slog.Logger) { n.tell(log, "READY=1") }

// Stopping says that the program is on its way down.
func (n Notifier) Stopping(log *slog.Logger) { n.tell(log, "STOPPING=1") }

// Status is the line `systemctl status` shows.
func (n Notifier) Status(log *slog.Logger, status string) { n.tell(log, "STATUS="+status) }

// tell logs instead of failing: a program that serves must not end because its
// manager is not listening.
func (n Notifier) tell(log *slog.Logger, state string) {
	if err := n.send(state); err != nil {
		log.Warn("service manager not told", "state", state, "error", err)
	}
}

// send writes one datagram. A leading '@' names an abstract socket, which is
// how package net spells it too.
func (n Notifier) send(state string) error {
	if n.socket == "" {
		return nil
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: n.socket, Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("dial NOTIFY_SOCKET: %w", err)
	}
	defer conn.Close()
	if err := conn.SetWriteDeadline(time.Now().Add(time.Second)); err != nil {
		return fmt.Errorf("limit the write to NOTIFY_SOCKET: %w", err)
	}
	if _, err := conn.Write([]byte(state)); err != nil {
		return fmt.Errorf("write to NOTIFY_SOCKET: %w", err)
	}
	return nil
}
