package chunk

import "mpack/layout/tensor"

// Piece is a chunk of a file whose tensors are known.
type Piece struct {
	Size int64 // in bytes, 1 to [Max]
	// DType is that of the tensors the piece is made of, in the words of
	// [tensor.Tensor]; empty if they differ or it is of none.
	DType string
}

// Tensors returns the pieces, in order, of a file of size bytes with the
// tensors ts, ordered by offset. Their sizes sum up to size, whatever ts
// holds; a tensor that overlaps the one before or leaves the file is taken
// for bytes of no tensor.
//
// A tensor of Small bytes or more is pieces of its own, every one of Max bytes
// but the last, and the one before where the last would be below Small. What
// follows a tensor up to the next, if less than Small (the padding of GGUF), counts
// as the tensor's end. Smaller tensors are put together until they reach Small
// or a large one follows. What comes before the first tensor, the file's
// header, is put together with nothing.
func Tensors(size int64, ts []tensor.Tensor) []Piece {
	var (
		pieces []Piece
		small  Piece // tensors below Small, not yet a piece
		pos    int64
	)
	flush := func() {
		if small.Size > 0 {
			pieces = append(pieces, small)
		}
		small = Piece{}
	}
	for i := 0; pos < size; {
		for i < len(ts) && !within(ts[i], pos, size) {
			i++
		}
		if i == len(ts) {
			break
		}
		t := ts[i]
		i++
		if pos < t.Offset {
			flush()
			pieces = steps(pieces, t.Offset-pos, "")
		}
		pos = t.Offset + t.Size
		end := size
		for ; i < len(ts); i++ {
			if within(ts[i], pos, size) {
				end = ts[i].Offset
				break
			}
		}
		if end-pos < Small {
			t.Size += end - pos
			pos = end
		}
		if t.Size >= Small {
			flush()
			pieces = steps(pieces, t.Size, t.DType)
			continue
		}
		if small.Size == 0 {
			small.DType = t.DType
		} else if small.DType != t.DType {
			small.DType = ""
		}
		if small.Size += t.Size; small.Size >= Small {
			flush()
		}
	}
	flush()
	return steps(pieces, size-pos, "")
}

// within says whether t lies between pos and size and is not empty.
func within(t tensor.Tensor, pos, size int64) bool {
	return t.Offset >= pos && t.Offset < size && t.Size > 0 && t.Size <= size-t.Offset
}

// steps appends the pieces of a run of n bytes.
func steps(pieces []Piece, n int64, dtype string) []Piece {
	for n > 0 {
		k := min(n, Max)
		if rest := n - k; rest > 0 && rest < Small {
			k -= Small
		}
		pieces = append(pieces, Piece{k, dtype})
		n -= k
	}
	return pieces
}
