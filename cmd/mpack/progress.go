package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"sync/atomic"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/term"

	"mpack/layout"
)

// How often a display is renewed.
const (
	barEvery  = 150 * time.Millisecond
	lineEvery = 5 * time.Second
)

// progress shows how far a command is: a bar on a terminal, lines otherwise.
type progress struct {
	title   string
	start   time.Time
	show    func(last bool)
	stopped chan struct{}
	ended   chan struct{}

	totalFiles, totalBytes, files, bytes    atomic.Int64
	deduped, stored, sent, present, retries atomic.Int64
}

// newProgress starts a display on w in the mode auto, plain, none or json.
func newProgress(mode string, quiet bool, w io.Writer, title string) *progress {
	p := &progress{title: title, start: time.Now(), stopped: make(chan struct{}), ended: make(chan struct{})}
	if mode == "auto" {
		mode = "plain"
		if f, ok := w.(*os.File); ok {
			// Some terminals, of CI jobs and containers, have no size: a bar would not be seen.
			if columns, _, err := term.GetSize(int(f.Fd())); err == nil && columns > 0 {
				mode = "bar"
			}
		}
	}
	every := lineEvery
	switch {
	case quiet || mode == "none":
		close(p.ended)
		return p
	case mode == "bar":
		p.show, every = p.bar(w), barEvery
	case mode == "json":
		e := json.NewEncoder(w)
		p.show, every = func(bool) { _ = e.Encode(p.status()) }, time.Second
	default:
		p.show = func(last bool) {
			if !last { // the command's own lines say what came of it
				fmt.Fprintln(w, p.line())
			}
		}
	}
	go p.run(every)
	return p
}

func (p *progress) run(every time.Duration) {
	defer close(p.ended)
	t := time.NewTicker(every)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			p.show(false)
		case <-p.stopped:
			p.show(true)
			return
		}
	}
}

// Func returns what is to be told of progress.
func (p *progress) Func() layout.Progress {
	return func(d layout.Delta) {
		p.totalFiles.Add(d.TotalFiles)
		p.totalBytes.Add(d.TotalBytes)
		p.files.Add(d.Files)
		p.bytes.Add(d.Bytes)
		p.deduped.Add(d.Deduped)
		p.stored.Add(d.Stored)
		p.sent.Add(d.Sent)
		p.present.Add(d.Present)
		p.retries.Add(d.Retries)
	}
}

// Done ends the display.
func (p *progress) Done() {
	close(p.stopped)
	<-p.ended
}

// status is a line of --progress json.
type status struct {
	Phase      string  `json:"phase"`
	Seconds    float64 `json:"seconds"`
	TotalFiles int64   `json:"totalFiles"`
	TotalBytes int64   `json:"totalBytes"`
	Files      int64   `json:"files"`
	Bytes      int64   `json:"bytes"`
	Deduped    int64   `json:"dedupedBytes"`
	Stored     int64   `json:"storedBytes"`
	Moved      int64   `json:"movedBytes"`
	Present    int64   `json:"presentBytes"`
	Retries    int64   `json:"retries"`
}

func (p *progress) status() status {
	return status{p.title, time.Since(p.start).Seconds(), p.totalFiles.Load(), p.totalBytes.Load(), p.files.Load(), p.bytes.Load(),
		p.deduped.Load(), p.stored.Load(), p.sent.Load(), p.present.Load(), p.retries.Load()}
}

// line says everything in a line.
func (p *progress) line() string {
	s := p.status()
	return fmt.Sprintf("%s: %s of %s files, %s of %s, %s/s, %s left%s", s.Phase, humanCount(s.Files), humanCount(s.TotalFiles),
		humanBytes(s.Bytes), humanBytes(s.TotalBytes), humanBytes(s.rate()), s.left(), s.moved())
}

func (s status) rate() int64 {
	return int64(float64(s.Bytes) / max(s.Seconds, 0.001))
}

func (s status) left() string {
	rate := s.rate()
	if rate == 0 {
		return "?"
	}
	return (time.Duration(max(0, s.TotalBytes-s.Bytes)/rate) * time.Second).String()
}

// hashing is the phase in which nothing goes over the network.
const hashing = "hash"

// moved says what went over the network and what did not have to.
func (s status) moved() string {
	if s.Phase == hashing {
		return ""
	}
	text := ", " + humanBytes(s.Moved) + " moved"
	if saved := s.Bytes - s.Moved; saved > 0 && s.Bytes > 0 {
		text += ", " + humanBytes(saved) + " saved"
	}
	if s.Retries > 0 {
		text += fmt.Sprintf(", %d retries", s.Retries)
	}
	return text
}

// bar returns what renews a bar on a terminal.
func (p *progress) bar(w io.Writer) func(last bool) {
	container := mpb.New(mpb.WithOutput(w), mpb.WithWidth(32), mpb.WithAutoRefresh())
	bar := container.AddBar(0,
		mpb.BarRemoveOnComplete(),
		mpb.PrependDecorators(decor.Any(func(decor.Statistics) string {
			s := p.status()
			return fmt.Sprintf("%s %s/%s files %s/%s ", s.Phase, humanCount(s.Files), humanCount(s.TotalFiles), humanBytes(s.Bytes), humanBytes(s.TotalBytes))
		})),
		mpb.AppendDecorators(decor.Any(func(decor.Statistics) string {
			s := p.status()
			return fmt.Sprintf(" %s/s, %s left%s", humanBytes(s.rate()), s.left(), s.moved())
		})),
	)
	return func(last bool) {
		bar.SetTotal(p.totalBytes.Load(), false)
		bar.SetCurrent(p.bytes.Load())
		if last {
			bar.Abort(true)
			container.Wait()
		}
	}
}
