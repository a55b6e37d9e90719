// The only program of the tests' containers, and of their sandboxes.
package main

import (
	"os"
	"time"
)

func main() {
	duration, err := time.ParseDuration(os.Args[1])
	if err != nil {
		os.Exit(1)
	}
	time.Sleep(duration)
}
