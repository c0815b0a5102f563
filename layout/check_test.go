package layout

import (
	"io"
	"sync/atomic"
	"testing"
	"time"

	"mpack/layout/sums"
)

// busy counts who reads it at once.
type busy struct{ now, most atomic.Int32 }

func (b *busy) ReadAt([]byte, int64) (int, error) {
	n := b.now.Add(1)
	defer b.now.Add(-1)
	for m := b.most.Load(); n > m && !b.most.CompareAndSwap(m, n); m = b.most.Load() {
	}
	time.Sleep(time.Millisecond)
	return 0, io.ErrUnexpectedEOF
}

// Each of many workers may check a file, and whoever does holds memory.
func TestFewCheckOneFile(t *testing.T) {
	f := &File{Size: 1 << 34}
	f.States = make([]sums.State, sums.Windows(f.Size)-1)
	var b busy
	if _, err := f.isIn(t.Context(), &b, 100); err != io.ErrUnexpectedEOF {
		t.Errorf("got %v", err)
	}
	if n := b.most.Load(); n > maxAtOnce {
		t.Errorf("%d check one file at once", n)
	}
}

// A file of the store may have any size.
func TestOfHugeFilesStatesAreNotKnown(t *testing.T) {
	for _, size := range []int64{sums.Window + 1, 1 << 54, 1<<63 - 1} {
		if (&File{Size: size}).hasStates() {
			t.Errorf("%d bytes without a state have all", size)
		}
	}
}
