// Package gen makes the inputs of the end-to-end tests and of the benchmark:
// models, a corpus, logs and awkward names. Everything depends on a seed
// alone, so two runs on two machines pack the same bytes.
//
//	Model   dir/model-0000N-of-0000M.safetensors, index, config.json, tokenizer.json, README.md
//	GGUF    dir/model.gguf: version 3, an F16 and quantised tensors
//	Corpus  dir/NN/NN/*.txt and *.json: many small files
//	JSONL   one file of records of about 500 bytes
//	Odd     what trees hold that naive tools lose: empty, long, spaced, linked, executable
package gen

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
)

// create opens a buffered file, calls fill and closes.
func create(name string, fill func(w *bufio.Writer) error) error {
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	w := bufio.NewWriterSize(f, 1<<20)
	return errors.Join(fill(w), w.Flush(), f.Close())
}

func write(name, text string) error {
	return create(name, func(w *bufio.Writer) error {
		_, err := w.WriteString(text)
		return err
	})
}

// pool is 4 MiB of Gaussian BF16 weights; drawing every weight anew would take
// longer than to pack it.
func pool(r *rand.Rand) []byte {
	b := make([]byte, 4<<20)
	for i := 0; i < len(b); i += 2 {
		binary.LittleEndian.PutUint16(b[i:], uint16(math.Float32bits(float32(r.NormFloat64()*0.02))>>16))
	}
	return b
}

// weights writes n bytes of BF16 weights that no two seeds share: the pool
// with its mantissas' low bits drawn anew.
func weights(w io.Writer, n int64, pool []byte, seed uint64) error {
	r := rand.New(rand.NewPCG(seed, 7))
	buf := make([]byte, 64<<10)
	for n > 0 {
		k := min(n, int64(len(buf)))
		at := int(r.Uint64N(uint64(len(pool)-len(buf)))) &^ 1
		for i := 0; i < len(buf); i += 8 {
			// Bits 0 to 6 of each 16-bit element are the mantissa's.
			x := binary.LittleEndian.Uint64(pool[at+i:]) ^ r.Uint64()&0x007f007f007f007f
			binary.LittleEndian.PutUint64(buf[i:], x)
		}
		if _, err := w.Write(buf[:k]); err != nil {
			return err
		}
		n -= k
	}
	return nil
}

// Tensor is where a tensor of a model lies.
type Tensor struct {
	Name, File   string
	Offset, Size int64 // bytes in File
}

type entry struct {
	DType   string   `json:"dtype"`
	Shape   [2]int64 `json:"shape"`
	Offsets [2]int64 `json:"data_offsets"`
}

// Model writes a sharded BF16 safetensors model of about size bytes with the
// usual side files and returns its tensors, largest about 16 MiB.
func Model(dir string, size int64, seed uint64) ([]Tensor, error) {
	r := rand.New(rand.NewPCG(seed, 1))
	p := pool(r)
	const columns = 2048
	shardSize := int64(1 << 30)
	shards := max(2, (size+shardSize-1)/shardSize)
	perShard := size / shards
	tensorSize := min(16<<20, max(64<<10, perShard/8)) / (columns * 2) * (columns * 2)
	var all []Tensor
	weightMap := map[string]string{}
	for s := range shards {
		name := fmt.Sprintf("model-%05d-of-%05d.safetensors", s+1, shards)
		header := map[string]any{"__metadata__": map[string]string{"format": "pt"}}
		var list []Tensor
		var at int64
		for i := 0; at < perShard; i++ {
			n := tensorSize
			tn := fmt.Sprintf("model.layers.%d.mlp.down_proj.weight", len(all)+len(list))
			if i%4 == 3 { // a norm after every three matrices
				n = columns * 2
				tn = fmt.Sprintf("model.layers.%d.input_layernorm.weight", len(all)+len(list))
			}
			header[tn] = entry{"BF16", [2]int64{n / 2 / columns, columns}, [2]int64{at, at + n}}
			list = append(list, Tensor{tn, name, at, n})
			weightMap[tn] = name
			at += n
		}
		head, err := json.Marshal(header)
		if err != nil {
			return nil, err
		}
		head = append(head, strings.Repeat(" ", (8-len(head)%8)%8)...)
		for i := range list {
			list[i].Offset += int64(8 + len(head))
		}
		err = create(filepath.Join(dir, name), func(w *bufio.Writer) error {
			if err := binary.Write(w, binary.LittleEndian, uint64(len(head))); err != nil {
				return err
			}
			if _, err := w.Write(head); err != nil {
				return err
			}
			for i, t := range list {
				if err := weights(w, t.Size, p, seed<<32+uint64(len(all)+i)); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		all = append(all, list...)
	}
	index, err := json.MarshalIndent(map[string]any{"metadata": map[string]int64{"total_size": size}, "weight_map": weightMap}, "", "  ")
	if err != nil {
		return nil, err
	}
	side := map[string]string{
		"model.safetensors.index.json": string(index),
		"config.json":                  `{"architectures":["LlamaForCausalLM"],"model_type":"llama","max_position_embeddings":8192,"torch_dtype":"bfloat16"}` + "\n",
		"README.md":                    "---\nlicense: apache-2.0\nlanguage:\n- en\nbase_model: example/base\ndatasets:\n- example/corpus\n---\n# Example\n",
		"tokenizer.json":               Text(200<<10, seed),
	}
	for name, text := range side {
		if err := write(filepath.Join(dir, name), text); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// ChangeTensors draws the weights of tensors anew, in place.
func ChangeTensors(dir string, ts []Tensor, seed uint64) error {
	p := pool(rand.New(rand.NewPCG(seed, 1)))
	for i, t := range ts {
		f, err := os.OpenFile(filepath.Join(dir, t.File), os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		err = weights(io.NewOffsetWriter(f, t.Offset), t.Size, p, seed<<32+uint64(i))
		if err = errors.Join(err, f.Close()); err != nil {
			return err
		}
	}
	return nil
}

// GGUF writes a GGUF file (version 3) of about size bytes: metadata, an F16
// embedding and Q8_0 tensors.
func GGUF(name string, size int64, seed uint64) error {
	const align = 32
	r := rand.New(rand.NewPCG(seed, 2))
	p := pool(r)
	var head bytes.Buffer
	le := func(v any) { _ = binary.Write(&head, binary.LittleEndian, v) } // into memory: cannot fail
	str := func(s string) { le(uint64(len(s))); head.WriteString(s) }
	head.WriteString("GGUF")
	le(uint32(3))
	const tensors = 9
	le(uint64(tensors))
	le(uint64(4))
	for _, kv := range [][2]string{{"general.architecture", "llama"}, {"general.name", "Example"}} {
		str(kv[0])
		le(uint32(8)) // string
		str(kv[1])
	}
	for _, kv := range []struct {
		key   string
		value uint32
	}{{"llama.context_length", 8192}, {"general.alignment", align}} {
		str(kv.key)
		le(uint32(4)) // uint32
		le(kv.value)
	}
	sizes := make([]int64, tensors)
	var at int64
	for i := range tensors {
		str(fmt.Sprintf("blk.%d.weight", i))
		le(uint32(1)) // dimensions
		blocks := max(1, size/tensors/34)
		if i == 0 {
			sizes[i] = blocks * 34 / 2 * 2
			le(uint64(sizes[i] / 2))
			le(uint32(1)) // F16
		} else {
			sizes[i] = blocks * 34 // Q8_0: 32 elements in 34 bytes
			le(uint64(blocks * 32))
			le(uint32(8))
		}
		le(uint64(at))
		at += (sizes[i] + align - 1) / align * align
	}
	return create(name, func(w *bufio.Writer) error {
		pad := func(n int64) { _, _ = w.Write(make([]byte, (align-n%align)%align)) } // Flush reports the error
		_, _ = w.Write(head.Bytes())
		pad(int64(head.Len()))
		for i, n := range sizes {
			if err := weights(w, n, p, seed<<32+uint64(i)); err != nil {
				return err
			}
			pad(n)
		}
		return nil
	})
}

var words = strings.Fields(`the of model weight layer token data training example corpus answer question value and to in is that for
	with as was on are by this be from or which one had not but what all were when we there can an your said if do will each about how up out
	them then she many some so these would other into has more her two like him see time could no make than first been its who now people`)

// Text returns about n bytes of words.
func Text(n int, seed uint64) string {
	r := rand.New(rand.NewPCG(seed, 3))
	var b strings.Builder
	b.Grow(n + 16)
	for b.Len() < n {
		if r.IntN(5) == 0 {
			fmt.Fprintf(&b, "%d", r.IntN(100000))
		} else {
			b.WriteString(words[r.IntN(len(words))])
		}
		if r.IntN(12) == 0 {
			b.WriteByte('\n')
		} else {
			b.WriteByte(' ')
		}
	}
	return b.String()
}

// Corpus writes n small files, 200 a directory, some of them empty.
func Corpus(dir string, n int, seed uint64) error {
	text := Text(1<<20, seed)
	r := rand.New(rand.NewPCG(seed, 4))
	for i := range n {
		sub := filepath.Join(dir, fmt.Sprintf("%03d", i/200))
		if i%200 == 0 {
			if err := os.MkdirAll(sub, 0o755); err != nil {
				return err
			}
		}
		size := r.IntN(1500)
		if i%500 == 0 {
			size = 0
		}
		at := r.IntN(len(text) - size)
		body := text[at : at+size]
		if size > 0 {
			body = fmt.Sprintf("document %d\n%s", i, body)
		}
		if err := os.WriteFile(filepath.Join(sub, fmt.Sprintf("doc-%06d.txt", i)), []byte(body), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// record writes the i-th line of a JSONL file, of about 500 bytes.
func record(w *bufio.Writer, i int64, text string, r *rand.Rand) {
	at := r.IntN(len(text) - 400)
	body := strings.ReplaceAll(text[at:at+400], "\n", " ")
	fmt.Fprintf(w, `{"id":%d,"key":"%016x","lang":"en","score":%.4f,"text":%q}`+"\n", i, r.Uint64(), r.Float64(), body)
}

// JSONL writes a file of about size bytes, one record a line.
func JSONL(name string, size int64, seed uint64) error {
	return create(name, func(w *bufio.Writer) error { return lines(w, size, seed) })
}

func lines(w *bufio.Writer, size int64, seed uint64) error {
	text := Text(4<<20, seed)
	r := rand.New(rand.NewPCG(seed, 5))
	for i, n := int64(0), size/500; i < n; i++ {
		record(w, i, text, r)
	}
	return nil
}

// Append adds about size bytes of further records.
func Append(name string, size int64, seed uint64) error {
	f, err := os.OpenFile(name, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	w := bufio.NewWriterSize(f, 1<<20)
	return errors.Join(lines(w, size, seed), w.Flush(), f.Close())
}

// InsertLine puts one line before all others.
func InsertLine(name, line string) error {
	old, err := os.Open(name)
	if err != nil {
		return err
	}
	defer old.Close()
	tmp := name + ".new"
	err = create(tmp, func(w *bufio.Writer) error {
		if _, err := w.WriteString(line + "\n"); err != nil {
			return err
		}
		_, err := io.Copy(w, old)
		return err
	})
	if err != nil {
		return err
	}
	return os.Rename(tmp, name)
}

// Odd writes what naive tools lose or trip over.
func Odd(dir string) error {
	files := map[string]string{
		"plain.txt":              "plain\n",
		"empty":                  "",
		"name with  spaces.txt":  "spaces\n",
		"-leading-dash":          "dash\n",
		"--output":               "looks like a flag\n",
		"ünïcødé/日本語/🙂.txt":      "utf-8\n",
		"e\u0301-decomposed":     "NFD\n",
		"\u00e9-composed":        "NFC\n",
		strings.Repeat("x", 255): "a name as long as names get\n",
		".hidden/.also-hidden":   "hidden\n",
		"quote\"'and*glob?[a]":   "quotes\n",
		"deep/" + strings.Repeat("d/", 60) + "leaf": "deep\n",
		"con.txt":     "a device on other systems\n",
		"colon:name":  "colon\n",
		"trailing. ":  "trailing dot and space\n",
		"real/target": "the target of links\n",
		"%2e%2e%2f":   "not an escape\n",
	}
	for name, text := range files {
		if err := write(filepath.Join(dir, filepath.FromSlash(name)), text); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(filepath.Join(dir, "empty-dir", "nested"), 0o755); err != nil {
		return err
	}
	if err := write(filepath.Join(dir, "run.sh"), "#!/bin/sh\necho ran\n"); err != nil {
		return err
	}
	if err := os.Chmod(filepath.Join(dir, "run.sh"), 0o755); err != nil {
		return err
	}
	for name, target := range map[string]string{"link": "plain.txt", "real/up": "../plain.txt", "link-to-dir": "real"} {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	return nil
}
