package watch

//go:generate go tool -modfile=../../tools/go.mod bpf2go -cc clang-19 -strip llvm-strip-19 -target amd64,arm64 -type packet -type direction watch ../../bpf/watch.c -- -O2 -mcpu=v2 -nostdinc -Wall -Werror -Wpadded -I../../bpf
