// Command silent holds connections to the metadata service on which it says nothing. Those that are
// closed it opens again after a while. Once all have been tried it says how many are open; it ends when
// its input does.
package main

import (
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

func main() {
	connections := flag.Int("connections", 100, "how many to hold")
	every := flag.Duration("every", time.Millisecond, "from the opening of one to that of the next, at first")
	again := flag.Duration("again", 5*time.Second, "until a connection that was closed is opened again")
	flag.Parse()

	var open atomic.Int64
	var tried sync.WaitGroup
	for n := range *connections {
		if n%10 == 0 {
			time.Sleep(10 * *every) // a shorter sleep lasts longer than it is to
		}
		tried.Add(1)
		first := sync.OnceFunc(tried.Done)
		go func() {
			for ; ; time.Sleep(*again) {
				conn, err := net.DialTimeout("tcp", "169.254.169.254:80", 2*time.Second)
				if err == nil {
					open.Add(1)
				}
				first()
				if err != nil {
					continue
				}
				_, _ = io.Copy(io.Discard, conn) // until it is closed
				open.Add(-1)
				conn.Close()
			}
		}()
	}
	tried.Wait()
	fmt.Println(open.Load())
	_, _ = io.Copy(io.Discard, os.Stdin)
}
