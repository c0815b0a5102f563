package layout

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
)

const (
	spoolBlock = 1 << 20 // bytes
	// spoolMemory is how many bytes of a layer are held in memory; larger
	// layers, which only trees of more than 16 GB have, go through a file.
	spoolMemory = 40 << 20
)

var spoolBlocks = sync.Pool{New: func() any { return new([spoolBlock]byte) }}

// spool holds one finished layer while it is uploaded: its digest must be
// known before a registry can be asked whether it has it, and its bytes must
// be there to be sent again.
type spool struct {
	blocks []*[spoolBlock]byte
	file   *os.File
	kept   bool // whether file still has a name, as it must on Windows
	n      int64
}

// Len returns the bytes appended.
func (s *spool) Len() int64 { return s.n }

// Append adds b to the end.
func (s *spool) Append(b []byte) error {
	if s.file == nil && s.n+int64(len(b)) > spoolMemory {
		if err := s.toFile(); err != nil {
			return err
		}
	}
	if s.file != nil {
		n, err := s.file.Write(b)
		s.n += int64(n)
		return spoolError(err)
	}
	for len(b) > 0 {
		at := int(s.n % spoolBlock)
		if at == 0 {
			s.blocks = append(s.blocks, spoolBlocks.Get().(*[spoolBlock]byte))
		}
		k := copy(s.blocks[len(s.blocks)-1][at:], b)
		b, s.n = b[k:], s.n+int64(k)
	}
	return nil
}

// toFile moves what is in memory to a file.
func (s *spool) toFile() error {
	f, err := os.CreateTemp("", "mpack-layer-")
	if err != nil {
		return spoolError(err)
	}
	s.file, s.kept = f, os.Remove(f.Name()) != nil
	_, err = io.Copy(f, io.NewSectionReader(s, 0, s.n))
	s.freeBlocks()
	return spoolError(err)
}

func spoolError(err error) error {
	if err != nil {
		return fmt.Errorf("buffer a layer (TMPDIR says where): %w", err)
	}
	return nil
}

// ReadAt implements [io.ReaderAt] over the blocks.
func (s *spool) ReadAt(p []byte, off int64) (n int, err error) {
	for n < len(p) && off < s.n {
		at := off % spoolBlock
		k := copy(p[n:], s.blocks[off/spoolBlock][at:min(spoolBlock, at+s.n-off)])
		n, off = n+k, off+int64(k)
	}
	if n < len(p) {
		err = io.EOF
	}
	return n, err
}

// Reader returns the bytes from the start.
func (s *spool) Reader() io.ReadSeeker {
	if s.file != nil {
		return io.NewSectionReader(s.file, 0, s.n)
	}
	return io.NewSectionReader(s, 0, s.n)
}

// Close lets the bytes go.
func (s *spool) Close() error {
	s.freeBlocks()
	if s.file == nil {
		return nil
	}
	err := s.file.Close()
	if s.kept {
		err = errors.Join(err, os.Remove(s.file.Name()))
	}
	return err
}

func (s *spool) freeBlocks() {
	for _, b := range s.blocks {
		spoolBlocks.Put(b)
	}
	s.blocks = nil
}
