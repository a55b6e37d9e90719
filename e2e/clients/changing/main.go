// Command changing calls the metadata service by IMDSv1, and changes in between what others see of it.
// It is told what to do in lists of JSON, and answers each with a line:
//
//	["call"]              the status of the answer
//	["name", NAME]        takes another name
//	["args", WORD, ...]   writes over its arguments
//	["cgroup", DIRECTORY] goes to another cgroup
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The thread that leads the process makes all calls: its name is that of the process.
func init() { runtime.LockOSThread() }

func main() {
	for orders := json.NewDecoder(os.Stdin); orders.More(); {
		var order []string
		if err := orders.Decode(&order); err != nil {
			panic(err)
		}
		said, err := obey(order[0], order[1:])
		if err != nil {
			said = err.Error()
		}
		fmt.Println(said)
	}
}

func obey(order string, words []string) (string, error) {
	switch order {
	case "call":
		return call()
	case "name":
		text := append([]byte(words[0]), 0)
		return "done", unix.Prctl(unix.PR_SET_NAME, uintptr(unsafe.Pointer(&text[0])), 0, 0, 0)
	case "args":
		for n, word := range words { // where the kernel shows them
			copy(unsafe.Slice(unsafe.StringData(os.Args[n]), len(os.Args[n])), word)
		}
		return "done", nil
	case "cgroup":
		return "done", os.WriteFile(words[0]+"/cgroup.procs", []byte("0"), 0)
	}
	return "", fmt.Errorf("unknown order %q", order)
}

func call() (string, error) {
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(socket)
	if err := unix.Connect(socket, &unix.SockaddrInet4{Port: 80, Addr: [4]byte{169, 254, 169, 254}}); err != nil {
		return "", err
	}
	if _, err := unix.Write(socket, []byte("GET /latest/meta-data/instance-id HTTP/1.0\r\n\r\n")); err != nil {
		return "", err
	}
	var answer strings.Builder
	for buf := make([]byte, 4096); ; {
		n, err := unix.Read(socket, buf)
		if err != nil {
			return "", err
		}
		if n == 0 {
			_, status, _ := strings.Cut(answer.String(), " ")
			return status[:min(len(status), 3)], nil
		}
		answer.Write(buf[:n])
	}
}
