// Command plain asks for role credentials without any SDK, and prints what came of it as JSON. Built
// statically it is all that an image needs.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"
)

const imds = "http://169.254.169.254/latest/"

type result struct {
	Status      int // of the last answer; 0 if there was none
	AccessKeyID string
	Error       string
}

func main() {
	v2 := flag.Bool("v2", false, "get a token first")
	flag.Parse()
	var r result
	if err := r.ask(*v2); err != nil {
		r.Error = err.Error()
	}
	if err := json.NewEncoder(os.Stdout).Encode(r); err != nil {
		panic(err)
	}
}

func (r *result) ask(v2 bool) error {
	header := http.Header{}
	if v2 {
		token, err := r.send(http.MethodPut, "api/token", http.Header{"X-Aws-Ec2-Metadata-Token-Ttl-Seconds": {"60"}})
		if err != nil {
			return err
		}
		header.Set("X-Aws-Ec2-Metadata-Token", string(token))
	}
	role, err := r.send(http.MethodGet, "meta-data/iam/security-credentials/", header)
	if err != nil {
		return err
	}
	document, err := r.send(http.MethodGet, "meta-data/iam/security-credentials/"+string(role), header)
	if err != nil {
		return err
	}
	return json.Unmarshal(document, r)
}

func (r *result) send(method, path string, header http.Header) ([]byte, error) {
	request, err := http.NewRequest(method, imds+path, nil)
	if err != nil {
		return nil, err
	}
	request.Header = header
	client := http.Client{Timeout: time.Second} // as the SDKs have it
	answer, err := client.Do(request)
	if err != nil {
		r.Status = 0
		return nil, err
	}
	defer answer.Body.Close()
	r.Status = answer.StatusCode
	if answer.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s %s: %s", method, path, answer.Status)
	}
	return io.ReadAll(answer.Body)
}
