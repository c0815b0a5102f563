//go:build linux

package bed

import (
	"bytes"
	"errors"
	"os/exec"
	"syscall"
	"time"
)

// Result is what a process did.
type Result struct {
	Code           int // exit code; 128 plus the signal's number where one ended it
	Stdout, Stderr string
	Wall, CPU      time.Duration
	PeakRSS        int64 // bytes
}

// Process is a running command.
type Process struct {
	cmd            *exec.Cmd
	stdout, stderr bytes.Buffer
	began          time.Time
}

// StartProcess starts cmd, whose output streams must be unset.
func StartProcess(cmd *exec.Cmd) (*Process, error) {
	p := &Process{cmd: cmd, began: time.Now()}
	cmd.Stdout, cmd.Stderr = &p.stdout, &p.stderr
	return p, cmd.Start()
}

// Signal sends a signal.
func (p *Process) Signal(s syscall.Signal) error { return p.cmd.Process.Signal(s) }

// Wait waits for the end. A code other than 0 is no error.
func (p *Process) Wait() (Result, error) {
	err := p.cmd.Wait()
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
	if usage, ok := state.SysUsage().(*syscall.Rusage); ok {
		r.PeakRSS = usage.Maxrss << 10 // Linux counts in KiB
	}
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
