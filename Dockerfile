# The image is the static binary and nothing else.
#
#   docker build .                               compiles it
#   docker build --build-arg BINARY=prebuilt .   takes bin/imds-bridge as `make build` left it
#   docker build --target init .                 makes the image of a sidecar's init step, which has iptables too
#
# Needs BuildKit, which makes the stages that are asked for and no other.
ARG BINARY=compiled
ARG IPTABLES=debian-iptables

FROM scratch AS prebuilt
COPY bin/imds-bridge /imds-bridge

FROM --platform=$BUILDPLATFORM golang:1.26-bookworm AS compiler
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG TARGETARCH
ARG VERSION
RUN GOARCH=$TARGETARCH make build BINARY=/imds-bridge ${VERSION:+VERSION=$VERSION}

FROM scratch AS compiled
COPY --from=compiler /imds-bridge /imds-bridge

FROM ${BINARY} AS binary

FROM debian:bookworm-slim AS debian-iptables
RUN apt-get update && apt-get install --yes --no-install-recommends iptables && rm -rf /var/lib/apt/lists/*

# Another image with iptables will do as well.
FROM ${IPTABLES} AS init
COPY --from=binary /imds-bridge /imds-bridge
ENTRYPOINT ["/imds-bridge"]
CMD ["redirect", "install"]

FROM binary
ENTRYPOINT ["/imds-bridge"]
CMD ["run"]
