package layout

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"

	"github.com/klauspost/compress/zstd"

	"mpack/layout/chunk"
	"mpack/layout/frame"
	"mpack/layout/sums"
	"mpack/layout/tensor"
	"mpack/layout/tree"
)

// Modes of a [File], as git writes them: the only ones there are.
const (
	ModeFile    = "100644"
	ModeExec    = "100755"
	ModeSymlink = "120000"
	ModeDir     = "040000" // an empty directory
)

// Limits that [ReadIndex] holds an index to.
const (
	maxLine     = 1 << 20   // bytes of one line of the index
	minLine     = 128       // bytes that a line counts at least, about what it takes in memory
	maxRatio    = 32        // decompressed bytes for each compressed one, past
	minIndexRaw = 128 << 20 // which are always read: of a sparse file, say, whose chunks are alike
	maxIndexRaw = 8 << 30   // decompressed bytes
	maxTotal    = 1 << 60   // bytes of the stream
)

// Index says which files an artifact holds and where each chunk of the stream
// lies. Files are in byte order of their paths, chunks in stream order.
type Index struct {
	Files  []File
	Chunks []Chunk
}

// File is a regular file, a symlink or an empty directory.
type File struct {
	Path    string          // slash-separated, relative, clean
	Mode    string          // ModeFile, ModeExec, ModeSymlink or ModeDir
	Size    int64           // bytes; of a symlink its target's, of a directory 0
	SHA256  Hash            // of the content; of a symlink its target's
	Link    string          // target of a symlink
	Format  string          // "safetensors" or "gguf" of a file cut at tensors
	Tensors []tensor.Tensor // by offset
	States  []sums.State    // of the SHA-256, if they are known: one less than there are windows
}

// Regular reports whether the file has bytes in the stream.
func (f *File) Regular() bool { return f.Mode == ModeFile || f.Mode == ModeExec }

// Chunk is a run of the stream and where its encoding lies.
type Chunk struct {
	SHA256 Hash // of the raw bytes
	Offset int64
	Size   int32 // raw bytes, 1 to [chunk.Max]
	Length int32 // encoded bytes from Offset in the layer
	Layer  int32 // number of the layer, from 0
	Filter frame.Filter
}

// The lines of an index.
type (
	headLine struct {
		Version string `json:"mpack"`
		Files   int64  `json:"files"`
		Chunks  int64  `json:"chunks"`
		Size    int64  `json:"size"`
	}
	fileLine struct {
		Path    string `json:"path"`
		Mode    string `json:"mode"`
		Size    int64  `json:"size"`
		SHA256  Hash   `json:"sha256"`
		Link    string `json:"link,omitempty"`
		Format  string `json:"format,omitempty"`
		Tensors int    `json:"tensors,omitempty"`
		States  int64  `json:"states,omitempty"`
	}
	chunkLine struct {
		SHA256 Hash   `json:"sha256"`
		Size   int32  `json:"size"`
		Layer  int32  `json:"layer"`
		Offset int64  `json:"offset"`
		Length int32  `json:"length"`
		Filter string `json:"filter,omitempty"`
	}
)

const indexVersion = "index/v1"

// Size returns the bytes of the stream: of all regular files.
func (ix *Index) Size() int64 {
	var n int64
	for i := range ix.Files {
		if ix.Files[i].Regular() {
			n += ix.Files[i].Size
		}
	}
	return n
}

// ContentDigest returns the SHA-256 over the lines "mode SP size SP sha256 SP
// path LF" of all files in byte order of their paths. It does not depend on
// how the tree was cut or compressed.
func (ix *Index) ContentDigest() Hash {
	h := sha256.New()
	var line []byte
	for i := range ix.Files {
		f := &ix.Files[i]
		line = append(line[:0], f.Mode...)
		line = append(line, ' ')
		line = strconv.AppendInt(line, f.Size, 10)
		line = append(line, ' ')
		line = append(line, f.SHA256.String()...)
		line = append(line, ' ')
		line = append(line, f.Path...)
		line = append(line, '\n')
		h.Write(line)
	}
	return Hash(h.Sum(nil))
}

// maxRaw returns the most bytes, as lines count, that an index of size
// compressed bytes may have.
func maxRaw(size int64) int64 { return min(maxIndexRaw, minIndexRaw+size*maxRatio) }

// WriteTo writes the index as zstd-compressed JSON lines. The bytes depend on
// the index alone. It fails for an index that [ReadIndex] would not take.
func (ix *Index) WriteTo(w io.Writer) (int64, error) {
	count := &counter{w: w}
	z, err := zstd.NewWriter(count, zstd.WithEncoderLevel(zstd.SpeedBetterCompression),
		zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(1<<20), zstd.WithEncoderCRC(false))
	if err != nil {
		return 0, err
	}
	b := bufio.NewWriterSize(z, 64<<10)
	raw := &counter{w: b, least: minLine}
	enc := json.NewEncoder(raw) // writes a line at a time
	enc.SetEscapeHTML(false)
	err = enc.Encode(headLine{indexVersion, int64(len(ix.Files)), int64(len(ix.Chunks)), ix.Size()})
	for i := 0; i < len(ix.Files) && err == nil; i++ {
		f := &ix.Files[i]
		err = enc.Encode(fileLine{f.Path, f.Mode, f.Size, f.SHA256, f.Link, f.Format, len(f.Tensors), int64(len(f.States))})
		for j := 0; j < len(f.Tensors) && err == nil; j++ {
			err = enc.Encode(f.Tensors[j])
		}
		for j := 0; j < len(f.States) && err == nil; j++ {
			err = enc.Encode(f.States[j])
		}
	}
	for i := 0; i < len(ix.Chunks) && err == nil; i++ {
		c := &ix.Chunks[i]
		err = enc.Encode(chunkLine{c.SHA256, c.Size, c.Layer, c.Offset, c.Length, c.Filter.String()})
	}
	err = errors.Join(err, b.Flush(), z.Close())
	if err == nil && raw.n > maxRaw(count.n) {
		err = fmt.Errorf("an index of %d bytes in %d is more than is read: the tree is too large, or repeats one chunk too often; pack it in parts", raw.n, count.n)
	}
	return count.n, err
}

// counter counts the bytes written, at least so many a call.
type counter struct {
	w     io.Writer
	least int
	n     int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(max(n, c.least))
	return n, err
}

// ReadIndex reads and checks an index of size compressed bytes whose layers
// have the sizes given. An index that it returns without error can be
// assembled without further checks: paths are safe and unique, the chunks
// cover the files exactly, and each lies inside its layer. Anything else is
// [ErrCorrupt] with the reason.
func ReadIndex(r io.Reader, size int64, layers []Layer) (*Index, error) {
	z, err := zstd.NewReader(io.LimitReader(r, size), zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(8<<20))
	if err != nil {
		return nil, err
	}
	defer z.Close()
	d := lineReader{r: bufio.NewReaderSize(z, 64<<10), size: size, left: maxRaw(size)}
	ix, err := d.index(layers)
	if err != nil {
		return nil, fmt.Errorf("%w: index line %d: %w", ErrCorrupt, d.line, err)
	}
	return ix, nil
}

type lineReader struct {
	r    *bufio.Reader
	size int64 // bytes of the compressed index
	left int64 // bytes that may be read, as lines count
	line int
	buf  []byte
}

// next decodes the next line into v.
func (d *lineReader) next(v any) error {
	d.line++
	d.buf = d.buf[:0]
	for {
		part, err := d.r.ReadSlice('\n')
		d.buf = append(d.buf, part...)
		if len(d.buf) > maxLine {
			return fmt.Errorf("longer than %d bytes", maxLine)
		}
		if err == nil {
			if d.left -= int64(max(len(d.buf), minLine)); d.left < 0 {
				return fmt.Errorf("more than the %d bytes that are read of an index of %d", maxRaw(d.size), d.size)
			}
			return json.Unmarshal(d.buf, v)
		}
		if err == io.EOF {
			return io.ErrUnexpectedEOF
		}
		if err != bufio.ErrBufferFull {
			return err
		}
	}
}

func (d *lineReader) index(layers []Layer) (*Index, error) {
	var head headLine
	if err := d.next(&head); err != nil {
		return nil, err
	}
	if head.Version != indexVersion {
		return nil, fmt.Errorf("version %q, this mpack reads %q: a newer mpack may read it", head.Version, indexVersion)
	}
	if head.Files < 0 || head.Chunks < 0 || head.Size < 0 || head.Size > maxTotal {
		return nil, errors.New("negative or absurd counts")
	}
	// Slices grow with the lines that are really there, never by what the head claims.
	ix := new(Index)
	var total int64
	for range head.Files {
		f, err := d.file()
		if err != nil {
			return nil, err
		}
		if n := len(ix.Files); n > 0 && ix.Files[n-1].Path >= f.Path {
			return nil, fmt.Errorf("path %q twice or out of order", f.Path)
		}
		if f.Regular() {
			if f.Size > maxTotal-total {
				return nil, errors.New("files add up to an absurd size")
			}
			total += f.Size
		}
		ix.Files = append(ix.Files, f)
	}
	if err := tree.ValidSet(ix.Entries()); err != nil {
		return nil, err
	}
	if total != head.Size {
		return nil, fmt.Errorf("files add up to %d bytes, not %d", total, head.Size)
	}
	var sum int64
	// A SHA-256 does not compress: no index has many more chunks than fit it.
	ix.Chunks = make([]Chunk, 0, min(head.Chunks, d.size/int64(len(Hash{}))))
	for range head.Chunks {
		var l chunkLine
		if err := d.next(&l); err != nil {
			return nil, err
		}
		c, err := l.chunk(layers)
		if err != nil {
			return nil, err
		}
		sum += int64(c.Size)
		ix.Chunks = append(ix.Chunks, c)
	}
	if sum != total {
		return nil, fmt.Errorf("chunks add up to %d bytes, files to %d", sum, total)
	}
	if _, err := d.r.ReadByte(); err != io.EOF {
		return nil, errors.New("more lines than counted")
	}
	return ix, nil
}

func (d *lineReader) file() (File, error) {
	var l fileLine
	if err := d.next(&l); err != nil {
		return File{}, err
	}
	f := File{Path: l.Path, Mode: l.Mode, Size: l.Size, SHA256: l.SHA256, Link: l.Link, Format: l.Format}
	if err := tree.ValidPath(f.Path); err != nil {
		return f, err
	}
	if f.Size < 0 || l.Tensors < 0 {
		return f, fmt.Errorf("%q: negative size", f.Path)
	}
	switch f.Mode {
	case ModeFile, ModeExec:
		if f.Link != "" {
			return f, fmt.Errorf("%q: a file with a link target", f.Path)
		}
	case ModeSymlink:
		if err := tree.ValidLink(f.Path, f.Link); err != nil {
			return f, err
		}
		if f.Size != int64(len(f.Link)) || f.SHA256 != sha256.Sum256([]byte(f.Link)) {
			return f, fmt.Errorf("%q: size or SHA-256 is not its target's", f.Path)
		}
	case ModeDir:
		if f.Size != 0 || f.Link != "" || f.SHA256 != sha256.Sum256(nil) {
			return f, fmt.Errorf("%q: a directory with content", f.Path)
		}
	default:
		return f, fmt.Errorf("%q: mode %q", f.Path, f.Mode)
	}
	if l.Tensors > 0 && !f.Regular() {
		return f, fmt.Errorf("%q: tensors in what is not a file", f.Path)
	}
	var end int64 // of the last tensor
	for range l.Tensors {
		var t tensor.Tensor
		if err := d.next(&t); err != nil {
			return f, err
		}
		if t.Offset < 0 || t.Size < 0 || t.Offset > f.Size-t.Size {
			return f, fmt.Errorf("%q: tensor %q lies outside of the file", f.Path, t.Name)
		}
		if t.Offset < end {
			return f, fmt.Errorf("%q: tensor %q begins before the last one ends", f.Path, t.Name)
		}
		end = t.Offset + t.Size
		if len(t.Shape) > tensor.MaxDims {
			return f, fmt.Errorf("%q: tensor %q of %d dimensions", f.Path, t.Name, len(t.Shape))
		}
		f.Tensors = append(f.Tensors, t)
	}
	if l.States < 0 || l.States > 0 && (!f.Regular() || l.States != sums.Windows(f.Size)-1) {
		return f, fmt.Errorf("%q: %d states", f.Path, l.States)
	}
	for range l.States {
		var st sums.State
		if err := d.next(&st); err != nil {
			return f, err
		}
		f.States = append(f.States, st)
	}
	return f, nil
}

func (l *chunkLine) chunk(layers []Layer) (Chunk, error) {
	filter, err := frame.ParseFilter(l.Filter)
	if err != nil {
		return Chunk{}, err
	}
	if l.Size < 1 || l.Size > chunk.Max || l.Length < 1 || int(l.Length) > frame.Bound(int(l.Size)) {
		return Chunk{}, fmt.Errorf("chunk of %d bytes in %d", l.Size, l.Length)
	}
	if l.Layer < 0 || int(l.Layer) >= len(layers) {
		return Chunk{}, fmt.Errorf("chunk in layer %d of %d", l.Layer, len(layers))
	}
	if l.Offset < 0 || l.Offset > layers[l.Layer].Size-int64(l.Length) {
		return Chunk{}, fmt.Errorf("chunk at %d+%d lies outside of layer %d", l.Offset, l.Length, l.Layer)
	}
	return Chunk{SHA256: l.SHA256, Offset: l.Offset, Size: l.Size, Length: l.Length, Layer: l.Layer, Filter: filter}, nil
}

// Entries returns the files as entries of a tree.
func (ix *Index) Entries() []tree.Entry {
	es := make([]tree.Entry, len(ix.Files))
	for i := range ix.Files {
		f := &ix.Files[i]
		es[i] = tree.Entry{Path: f.Path, Size: f.Size, Link: f.Link, Exec: f.Mode == ModeExec}
		switch f.Mode {
		case ModeSymlink:
			es[i].Kind = tree.Symlink
		case ModeDir:
			es[i].Kind = tree.Dir
		}
	}
	return es
}

// Marshal returns what WriteTo writes.
func (ix *Index) Marshal() ([]byte, error) {
	var b bytes.Buffer
	_, err := ix.WriteTo(&b)
	return b.Bytes(), err
}
