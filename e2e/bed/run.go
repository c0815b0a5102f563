//go:build linux

package bed

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// Result is what a process did.
type Result struct {
	Code           int // exit code; 128 plus the signal's number where one ended it
	Stdout, Stderr string
	Wall, CPU      time.Duration
	PeakRSS        int64 // bytes, of the process itself, but for its last 10 ms
}

// Process is a running command.
type Process struct {
	cmd            *exec.Cmd
	stdout, stderr bytes.Buffer
	began          time.Time
	ended          chan struct{}
	peak           chan int64
}

// StartProcess starts cmd, whose output streams must be unset.
func StartProcess(cmd *exec.Cmd) (*Process, error) {
	p := &Process{cmd: cmd, began: time.Now(), ended: make(chan struct{}), peak: make(chan int64, 1)}
	cmd.Stdout, cmd.Stderr = &p.stdout, &p.stderr
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	go p.watch()
	return p, nil
}

// watch follows the most memory that the process has had. The kernel's own
// account at the end (ru_maxrss) begins with what the parent had at the fork.
func (p *Process) watch() {
	var peak int64
	for {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
		if _, after, ok := strings.Cut(string(b), "VmHWM:"); err == nil && ok {
			var kib int64
			if _, err := fmt.Sscan(after, &kib); err == nil {
				peak = max(peak, kib<<10)
			}
		}
		select {
		case <-p.ended:
			p.peak <- peak
			return
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// Signal sends a signal.
func (p *Process) Signal(s syscall.Signal) error { return p.cmd.Process.Signal(s) }

// Wait waits for the end. A code other than 0 is no error.
func (p *Process) Wait() (Result, error) {
	err := p.cmd.Wait()
	close(p.ended)
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return Result{}, err
	}
	state := p.cmd.ProcessState
	r := Result{
		Code:   state.ExitCode(),
		Stdout: p.stdout.String(),
		Stderr: p.stderr.String(),
		Wall:   time.Since(p.began),
		CPU:    state.UserTime() + state.SystemTime(),
	}
	if ws, ok := state.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		r.Code = 128 + int(ws.Signal())
	}
	r.PeakRSS = <-p.peak
	return r, nil
}

// Run runs cmd to its end.
func Run(cmd *exec.Cmd) (Result, error) {
	p, err := StartProcess(cmd)
	if err != nil {
		return Result{}, err
	}
	return p.Wait()
}
