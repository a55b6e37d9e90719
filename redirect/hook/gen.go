package hook

//go:generate go tool -modfile=../../tools/go.mod bpf2go -cc clang-19 -strip llvm-strip-19 -target amd64,arm64 hook ../../bpf/redirect.c -- -O2 -mcpu=v2 -nostdinc -Wall -Werror -Wpadded -I../../bpf
