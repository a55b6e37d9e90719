package telemetry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"golang.org/x/sync/errgroup"
)

// ecsVariable names the task metadata endpoint, version 4, in every container of Amazon ECS. Its address,
// 169.254.170.2, is not that of IMDS.
const ecsVariable = "ECS_CONTAINER_METADATA_URI_V4"

const (
	// ecsPatience bounds what a start waits for the endpoint, which answers within milliseconds.
	ecsPatience = 500 * time.Millisecond
	maxECS      = 1 << 20
)

// The endpoint's documents, as far as they are used:
// https://docs.aws.amazon.com/AmazonECS/latest/developerguide/task-metadata-endpoint-v4-response.html
type (
	ecsContainer struct{ DockerID, Name, Image, ImageID, ContainerARN string }
	ecsTask      struct{ Cluster, TaskARN, Family, Revision, AvailabilityZone, LaunchType string }
)

// detectECS says in which task of Amazon ECS this process runs. Where there is an error, the attributes are
// those that are known in spite of it.
func detectECS(ctx context.Context, uri string) ([]attribute.KeyValue, error) {
	ctx, cancel := context.WithTimeout(ctx, ecsPatience)
	defer cancel()
	client := &http.Client{
		Transport: &http.Transport{DisableKeepAlives: true}, // and no proxy of the environment
		CheckRedirect: func(*http.Request, []*http.Request) error {
			return errors.New("it leads elsewhere")
		},
	}
	var container ecsContainer
	var task ecsTask
	var both errgroup.Group
	both.Go(func() error { return getECS(ctx, client, uri, &container) })
	both.Go(func() error { return getECS(ctx, client, uri+"/task", &task) })
	err := both.Wait()
	if err != nil {
		err = fmt.Errorf("ask for the task of ECS that the bridge runs in: %w", err)
	}
	return withValue(append(container.attributes(), task.attributes()...)), err
}

func getECS(ctx context.Context, client *http.Client, uri string, into any) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, uri, nil)
	if err != nil {
		return err
	}
	answer, err := client.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", uri, answer.Status)
	}
	if err := json.NewDecoder(io.LimitReader(answer.Body, maxECS)).Decode(into); err != nil {
		return fmt.Errorf("%s: %w", uri, err)
	}
	return nil
}

func (c ecsContainer) attributes() []attribute.KeyValue {
	image := c.Image
	if slash, colon := strings.LastIndexByte(image, '/'), strings.LastIndexByte(image, ':'); colon > slash {
		image = image[:colon] // its tag
	}
	return []attribute.KeyValue{
		semconv.ContainerID(c.DockerID),
		semconv.ContainerName(c.Name),
		semconv.ContainerImageName(image),
		semconv.ContainerImageID(c.ImageID),
		semconv.AWSECSContainerARN(c.ContainerARN),
		semconv.CloudResourceID(c.ContainerARN),
	}
}

func (t ecsTask) attributes() []attribute.KeyValue {
	// arn:aws:ecs:<region>:<account>:task/<cluster>/<id>, and before 2021 without the cluster.
	arn := strings.SplitN(t.TaskARN, ":", 6)
	if len(arn) < 6 {
		return nil
	}
	cluster := t.Cluster
	if cluster != "" && !strings.HasPrefix(cluster, "arn:") {
		cluster = strings.Join(arn[:5], ":") + ":cluster/" + cluster
	}
	return []attribute.KeyValue{
		semconv.CloudProviderAWS,
		semconv.CloudPlatformAWSECS,
		semconv.CloudRegion(arn[3]),
		semconv.CloudAccountID(arn[4]),
		semconv.CloudAvailabilityZone(t.AvailabilityZone),
		semconv.AWSECSClusterARN(cluster),
		semconv.AWSECSTaskARN(t.TaskARN),
		semconv.AWSECSTaskID(t.TaskARN[strings.LastIndexByte(t.TaskARN, '/')+1:]),
		semconv.AWSECSTaskFamily(t.Family),
		semconv.AWSECSTaskRevision(t.Revision),
		semconv.AWSECSLaunchtypeKey.String(strings.ToLower(t.LaunchType)),
	}
}

// withValue leaves out what is not known.
func withValue(all []attribute.KeyValue) (known []attribute.KeyValue) {
	for _, a := range all {
		if a.Value.AsString() != "" {
			known = append(known, a)
		}
	}
	return known
}
