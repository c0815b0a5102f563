package layout

import (
	"bytes"
	"fmt"
	"io"
	"os"
)

// spoolMemory is how many bytes of a layer are held in memory; larger layers,
// which only trees of more than 16 GB have, go through a temporary file.
const spoolMemory = 40 << 20

// spool holds one finished layer while it is uploaded: its digest must be
// known before a registry can be asked whether it has it, and its bytes must
// be there to be sent again.
type spool struct {
	mem  []byte
	file *os.File
	kept bool // whether file still has a name, as it must on Windows
	n    int64
	free chan []byte // where mem comes from and goes back to
}

func newSpool(free chan []byte) *spool {
	s := &spool{free: free}
	select {
	case s.mem = <-free:
	default:
		s.mem = make([]byte, 0, spoolMemory) // of which the system gives what is written to
	}
	return s
}

// Len returns the bytes appended.
func (s *spool) Len() int64 { return s.n }

// Append adds b to the end.
func (s *spool) Append(b []byte) error {
	s.n += int64(len(b))
	if s.file == nil && len(s.mem)+len(b) <= spoolMemory {
		s.mem = append(s.mem, b...)
		return nil
	}
	if s.file == nil {
		f, err := os.CreateTemp("", "mpack-layer-")
		if err != nil {
			return fmt.Errorf("buffer a layer: %w", err)
		}
		s.file, s.kept = f, os.Remove(f.Name()) != nil
		if _, err := f.Write(s.mem); err != nil {
			return fmt.Errorf("buffer a layer (TMPDIR says where): %w", err)
		}
	}
	if _, err := s.file.Write(b); err != nil {
		return fmt.Errorf("buffer a layer (TMPDIR says where): %w", err)
	}
	return nil
}

// Reader returns the bytes from the start.
func (s *spool) Reader() io.ReadSeeker {
	if s.file != nil {
		return io.NewSectionReader(s.file, 0, s.n)
	}
	return bytes.NewReader(s.mem)
}

// Close lets the bytes go.
func (s *spool) Close() {
	if s.file != nil {
		s.file.Close()
		if s.kept {
			os.Remove(s.file.Name())
		}
	}
	if s.mem != nil {
		select {
		case s.free <- s.mem[:0]:
		default:
		}
	}
}
