package main

import "testing"

func TestParseBytes(t *testing.T) {
	for s, want := range map[string]int64{
		"0": 0, "1": 1, "500GB": 500e9, "2TiB": 2 << 40, "1.5 GiB": 3 << 29, "10mb": 10e6, "7B": 7, "1kB": 1000, "1KiB": 1024, "2 PB": 2e15,
	} {
		if got, err := parseBytes(s); err != nil || got != want {
			t.Errorf("%q: %d, %v; want %d", s, got, err, want)
		}
	}
	for _, s := range []string{"", "GB", "-1GB", "1XB", "1 2", "1GG", "9999PB", "NaN", "0x10", "1GBs", "Inf"} {
		if got, err := parseBytes(s); err == nil {
			t.Errorf("%q: %d", s, got)
		}
	}
}
