// Fetches poems with a goroutine for each: fetch [HOST:]PORT ...
//
// The code blocks, and the runtime does not: it parks a goroutine that would wait, and polls for all of them. The time is that
// of the slowest poem, with a thread for each processor and a few more.
package main

import (
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"time"
)

// The poem of a server. It says all of it unasked, and closes: the end of the stream is the end of the poem.
func fetch(address string) ([]byte, error) {
	if !strings.Contains(address, ":") {
		address = "127.0.0.1:" + address
	}
	connection, err := net.Dial("tcp", address)
	if err != nil {
		return nil, err
	}
	defer connection.Close()
	// Here this goroutine waits. A reset is an error: what has come until then is not a poem.
	return io.ReadAll(connection)
}

func main() {
	began := time.Now()
	var all sync.WaitGroup
	var failed sync.Map
	for _, address := range os.Args[1:] {
		all.Add(1)
		go func(address string) {
			defer all.Done()
			poem, err := fetch(address)
			if err != nil {
				failed.Store(address, err)
				fmt.Fprintf(os.Stderr, "%s: %v\n", address, err)
				return
			}
			fmt.Printf("%s: %d bytes after %.3f s\n", address, len(poem), time.Since(began).Seconds())
		}(address)
	}
	all.Wait()
	failed.Range(func(_, _ any) bool {
		os.Exit(1)
		return false
	})
}
