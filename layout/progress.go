package layout

// Progress is told what has moved since the last call. It is called from many
// goroutines at once and must not block. A nil Progress is never called.
type Progress func(Delta)

// Delta is what has moved since the last call; every field is added to what
// was reported before.
type Delta struct {
	TotalFiles, TotalBytes int64 // to be done: regular files, raw bytes
	Files, Bytes           int64 // done: files finished, raw bytes read (pack) or written (assemble)
	Deduped                int64 // raw bytes of Bytes that were known already
	Stored                 int64 // compressed bytes produced (pack) or decoded (assemble)
	Sent                   int64 // bytes moved over the network
	Present                int64 // bytes of blobs that the other side had already
	Retries                int64 // transfers started again
}

func (p Progress) add(d Delta) {
	if p != nil {
		p(d)
	}
}

// begin tells what is to be read, and returns how many bytes it has.
func (p Progress) begin(sources []source) (total int64) {
	for i := range sources {
		total += sources[i].size
	}
	p.add(Delta{TotalFiles: int64(len(sources)), TotalBytes: total})
	return total
}
