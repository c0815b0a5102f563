package tree

// readable is for the walk to name early what it cannot pack. Windows has no
// cheap way to tell; there it comes out when the file is opened.
func readable(string) bool { return true }
