//go:build !amd64

package frame

func split2Fast(_, _, _ []byte) int { return 0 }
func join2Fast(_, _, _ []byte) int  { return 0 }
