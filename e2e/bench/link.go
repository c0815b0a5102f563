//go:build linux

package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
)

// link is the way from the clients to the registry: loopback, or a veth pair
// of limited rate into a network namespace in which the clients run.
type link struct {
	host      string // the registry's address, as the clients see it
	namespace string // "": none
}

// Of a range set aside for benchmarks (RFC 2544), never routed.
const (
	serverAddr = "198.18.77.1"
	clientAddr = "198.18.77.2"
)

// newLink makes a link of a rate; "" is loopback.
func newLink(rate string) (*link, error) {
	if rate == "" {
		return &link{host: "127.0.0.1"}, nil
	}
	ns := fmt.Sprintf("mpack%d", os.Getpid()) // also the interface's name, of at most 15 bytes
	l := &link{serverAddr, ns}
	for _, line := range []string{
		"ip netns add " + ns,
		"ip link add " + ns + " type veth peer name client netns " + ns,
		"ip addr add " + serverAddr + "/30 dev " + ns,
		"ip link set " + ns + " up",
		"ip -n " + ns + " addr add " + clientAddr + "/30 dev client",
		"ip -n " + ns + " link set client up",
		"ip -n " + ns + " link set lo up",
		"tc qdisc add dev " + ns + " root tbf rate " + rate + " burst 1mb latency 50ms",
		"tc -n " + ns + " qdisc add dev client root tbf rate " + rate + " burst 1mb latency 50ms",
	} {
		if err := sh(line); err != nil {
			return nil, errors.Join(fmt.Errorf("a link needs root and iproute2: %w", err), l.close())
		}
	}
	return l, nil
}

func sh(line string) error {
	args := strings.Fields(line)
	if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", line, err, strings.TrimSpace(string(out)))
	}
	return nil
}

// enter makes a command run at the clients' end.
func (l *link) enter(cmd *exec.Cmd) *exec.Cmd {
	if l.namespace == "" {
		return cmd
	}
	in := exec.Command("nsenter", append([]string{"--net=/run/netns/" + l.namespace, "--"}, cmd.Args...)...)
	in.Dir, in.Env = cmd.Dir, cmd.Env
	return in
}

// close takes the namespace away, and with it the pair.
func (l *link) close() error {
	if l.namespace == "" {
		return nil
	}
	return sh("ip netns del " + l.namespace)
}
