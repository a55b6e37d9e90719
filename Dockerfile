# The image is the static binary and nothing else.
#
#   docker build .                               compiles it
#   docker build --build-arg BINARY=prebuilt .   takes bin/imds-bridge as `make build` left it
#
# Needs BuildKit, which makes the stages that are asked for and no other.
ARG BINARY=compiled

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

FROM ${BINARY}
ENTRYPOINT ["/imds-bridge"]
CMD ["run"]
