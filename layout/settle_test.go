package layout_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"mpack/layout/frame"
)

// BenchmarkSettle measures what the sizes of chunks and the level of zstd were
// settled by (SPEC.md, notes):
//
//	go test ./layout -run - -bench Settle -benchtime 1x
//
// The text is the Go distribution's own source code, which every machine that
// runs this has. Edits are 100 insertions of 40 bytes, 1 MB apart.
func BenchmarkSettle(b *testing.B) {
	text := sources(b, 90e6)
	edited := edit(text)
	for avg := 64 << 10; avg <= 256<<10; avg *= 2 {
		for level := frame.Level(1); level <= 4; level++ {
			b.Run(fmt.Sprintf("mean=%dKiB/level=%d", avg>>10, level), func(b *testing.B) {
				e, err := frame.NewEncoder(level)
				if err != nil {
					b.Fatal(err)
				}
				b.SetBytes(int64(len(text)))
				for b.Loop() {
					known := map[[32]byte]bool{}
					var stored, again, chunks int
					var enc []byte
					for _, c := range cuts(text, avg) {
						known[sha256.Sum256(c)] = true
						enc, _, err = e.Encode(enc[:0], c, frame.Bytes)
						if err != nil {
							b.Fatal(err)
						}
						stored += len(enc)
						chunks++
					}
					b.StopTimer()
					for _, c := range cuts(edited, avg) {
						if !known[sha256.Sum256(c)] {
							enc, _, err = e.Encode(enc[:0], c, frame.Bytes)
							if err != nil {
								b.Fatal(err)
							}
							again += len(enc)
						}
					}
					b.StartTimer()
					b.ReportMetric(float64(stored)/float64(len(text)), "ratio")
					b.ReportMetric(float64(again)/100/1e3, "kB/edit")
					b.ReportMetric(float64(chunks), "chunks")
				}
			})
		}
	}
}

// sources returns n bytes of Go source code.
func sources(b *testing.B, n int) []byte {
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		b.Fatal(err)
	}
	var text []byte
	err = filepath.WalkDir(filepath.Join(strings.TrimSpace(string(root)), "src"), func(p string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || filepath.Ext(p) != ".go" {
			return err
		}
		if len(text) >= n {
			return fs.SkipAll
		}
		f, err := os.ReadFile(p)
		text = append(text, f...)
		return err
	})
	if err != nil || len(text) < n/2 {
		b.Fatal(len(text), err)
	}
	return text[:min(n, len(text))]
}

func edit(text []byte) []byte {
	r := rand.New(rand.NewPCG(1, 2))
	var out bytes.Buffer
	step := len(text) / 100
	for i := range 100 {
		part := text[i*step : (i+1)*step]
		at := r.IntN(len(part))
		out.Write(part[:at])
		fmt.Fprintf(&out, "\n// an insertion of forty bytes, no.%5d\n", r.IntN(100000))
		out.Write(part[at:])
	}
	return out.Bytes()
}

// cuts is content-defined cutting as package chunk does it, for any mean:
// a quarter of it is the minimum, four times it the maximum.
func cuts(data []byte, mean int) [][]byte {
	const window = 64
	var gear [256]uint64
	for i := range gear {
		sum := sha256.Sum256([]byte{byte(i)})
		gear[i] = binary.BigEndian.Uint64(sum[:])
	}
	easy := mean * 13 / 16
	bits := 0
	for 1<<bits < mean/4 {
		bits++
	}
	var out [][]byte
	for len(data) > 0 {
		n, h := min(len(data), mean/4), uint64(0)
		for i := max(0, n-window); i < min(len(data), 4*mean); i++ {
			h = h<<1 + gear[data[i]]
			if i < n {
				continue
			}
			limit := uint64(1) << (64 - bits - 4)
			if i >= easy {
				limit = 1 << (64 - bits)
			}
			if h < limit {
				n = i + 1
				break
			}
			n = i + 1
		}
		out = append(out, data[:n])
		data = data[n:]
	}
	return out
}
