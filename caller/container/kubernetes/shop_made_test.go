//go:build kubernetes

package kubernetes

import (
	"net/http"

	"github.com/imds-bridge/imds-bridge/caller/container/kubernetes/clustertest"
)

// The objects that controllers, schedulers and the kubelet of node-1 would make.

const (
	core  = "/api/v1/namespaces/shop/"
	apps  = "/apis/apps/v1/namespaces/shop/"
	batch = "/apis/batch/v1/namespaces/shop/"
)

// prepare makes what pods need, and the accounts that the source is run as.
func (c cluster) prepare() {
	c.Do(http.MethodPost, "/api/v1/nodes", object{"metadata": object{"name": "node-1"}})
	for _, namespace := range []string{"shop", "imds-bridge"} {
		c.Do(http.MethodPost, "/api/v1/namespaces", object{"metadata": object{"name": namespace}})
	}
	for _, account := range []string{"default", "web"} {
		c.Do(http.MethodPost, core+"serviceaccounts", object{"metadata": object{"name": account}})
	}
	for _, account := range []string{"imds-bridge", "pods-only", "denied"} {
		c.Do(http.MethodPost, "/api/v1/namespaces/imds-bridge/serviceaccounts", object{"metadata": object{"name": account}})
	}
	pods := object{"apiGroups": []string{""}, "resources": []string{"pods"}, "verbs": []string{"list", "watch"}}
	c.grant("pods-only", pods)
	c.grant("imds-bridge", pods,
		object{"apiGroups": []string{"apps"}, "resources": []string{"replicasets"}, "verbs": []string{"get"}},
		object{"apiGroups": []string{"batch"}, "resources": []string{"jobs"}, "verbs": []string{"get"}})
}

// grant gives an account a role of its own.
func (c cluster) grant(account string, rules ...object) {
	const path = "/apis/rbac.authorization.k8s.io/v1/"
	c.Do(http.MethodPost, path+"clusterroles", object{"metadata": object{"name": account}, "rules": rules})
	c.Do(http.MethodPost, path+"clusterrolebindings", object{
		"metadata": object{"name": account},
		"roleRef":  object{"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": account},
		"subjects": []object{{"kind": "ServiceAccount", "name": account, "namespace": "imds-bridge"}},
	})
}

func (c cluster) make(path string, body object) clustertest.Metadata {
	made, _ := c.Do(http.MethodPost, path, body)
	return made
}

func ownedBy(version, kind string, made clustertest.Metadata) []object {
	return []object{{"apiVersion": version, "kind": kind, "name": made.Name, "uid": made.UID, "controller": true}}
}

// runPod makes a pod, and then its status as the kubelet would.
func (c cluster) runPod(meta, spec, status object) {
	if spec["nodeName"] == nil {
		spec["nodeName"] = "node-1"
	}
	c.Do(http.MethodPost, core+"pods", object{"metadata": meta, "spec": spec})
	c.setStatus(meta["name"].(string), status)
}

func (c cluster) setStatus(pod string, status object) {
	status["phase"] = "Running"
	c.Do(http.MethodPatch, core+"pods/"+pod+"/status", object{"status": status})
}

func containers(pairs ...string) (all []object) {
	for n := 0; n < len(pairs); n += 2 {
		all = append(all, object{"name": pairs[n], "image": pairs[n+1]})
	}
	return all
}

func status(name, id, image, imageID string) object {
	return object{
		"name": name, "containerID": id, "image": image, "imageID": imageID, "ready": true, "restartCount": 0,
		"state": object{"running": object{"startedAt": "2025-01-01T00:00:00Z"}},
	}
}

func terminated(id string) object {
	return object{"terminated": object{"containerID": id, "exitCode": 0, "reason": "Completed",
		"startedAt": "2025-01-01T00:00:00Z", "finishedAt": "2025-01-01T00:00:01Z"}}
}

func template(image string) object {
	return object{"metadata": object{"labels": object{"app": "x"}}, "spec": object{"containers": containers("x", image)}}
}

var selector = object{"matchLabels": object{"app": "x"}}

// openShop makes pods of all kinds.
func (c cluster) openShop() {
	deployment := c.make(apps+"deployments", object{"metadata": object{"name": "web"}, "spec": object{"selector": selector, "template": template("nginx")}})
	replicas := c.make(apps+"replicasets", object{
		"metadata": object{"name": "web-6d4cf56db6", "ownerReferences": ownedBy("apps/v1", "Deployment", deployment)},
		"spec":     object{"selector": selector, "template": template("nginx")},
	})
	done := status("migrate", "containerd://"+id(2), "registry:5000/shop/migrate:v2", "registry:5000/shop/migrate@"+digest(2))
	done["state"] = terminated("containerd://" + id(2))
	c.runPod(object{
		"name": "web-6d4cf56db6-x7k2p", "ownerReferences": ownedBy("apps/v1", "ReplicaSet", replicas),
		"labels":      object{"app.kubernetes.io/name": "web", "pod-template-hash": "6d4cf56db6", "team": "shop"},
		"annotations": object{"tags.datadoghq.com/service": "web", lastApplied: `{"env":"SECRET=hunter2"}`},
	}, object{
		"serviceAccountName": "web", "initContainers": containers("migrate", "registry:5000/shop/migrate:v2"), "containers": containers("app", "nginx"),
	}, object{
		"initContainerStatuses": []object{done},
		"containerStatuses":     []object{status("app", "containerd://"+id(1), "docker.io/library/nginx:latest", "docker.io/library/nginx@"+digest(1))},
	})

	for name, n := range map[string]int{"agent": 3, "resolver": 4} {
		set := c.make(apps+"daemonsets", object{"metadata": object{"name": name}, "spec": object{"selector": selector, "template": template("agent")}})
		c.runPod(object{"name": name + "-9xk2m", "ownerReferences": ownedBy("apps/v1", "DaemonSet", set)},
			object{"hostNetwork": true, "containers": containers("main", "agent:1")},
			object{"containerStatuses": []object{status("main", "containerd://"+id(n), "docker.io/library/agent:1", "docker.io/library/agent@"+digest(3))}})
	}

	set := c.make(apps+"statefulsets", object{"metadata": object{"name": "db"}, "spec": object{"serviceName": "db", "selector": selector, "template": template("postgres")}})
	c.runPod(object{"name": "db-0", "ownerReferences": ownedBy("apps/v1", "StatefulSet", set)},
		object{"containers": containers("postgres", "postgres:17@"+digest(5))},
		object{"containerStatuses": []object{status("postgres", "cri-o://"+id(5), "docker.io/library/postgres:17", "docker.io/library/postgres@"+digest(5))}})

	once := template("report:3")
	once["spec"].(object)["restartPolicy"] = "Never"
	cron := c.make(batch+"cronjobs", object{"metadata": object{"name": "report"}, "spec": object{"schedule": "0 * * * *", "jobTemplate": object{"spec": object{"template": once}}}})
	for name, n := range map[string]int{"report-29384010": 6, "import": 7} {
		meta := object{"name": name}
		if n == 6 {
			meta["ownerReferences"] = ownedBy("batch/v1", "CronJob", cron)
		}
		delete(once["metadata"].(object), "labels") // the server adds its own
		job := c.make(batch+"jobs", object{"metadata": meta, "spec": object{"template": once}})
		c.runPod(object{"name": name + "-l9xvw", "ownerReferences": ownedBy("batch/v1", "Job", job)},
			object{"restartPolicy": "Never", "containers": containers("job", "report:3")},
			object{"containerStatuses": []object{status("job", "containerd://"+id(n), "docker.io/library/report:3", digest(n))}})
	}

	node, _ := c.Do(http.MethodGet, "/api/v1/nodes/node-1", nil)
	c.runPod(object{
		"name": "kube-proxy-node-1", "ownerReferences": ownedBy("v1", "Node", node),
		"annotations": object{mirrored: staticUID, configHash: staticUID, "kubernetes.io/config.source": "file"},
	}, object{"hostNetwork": true, "containers": containers("kube-proxy", "registry.test/kube-proxy:v1.34.2")},
		object{"containerStatuses": []object{status("kube-proxy", "containerd://"+id(8), "registry.test/kube-proxy:v1.34.2", "registry.test/kube-proxy@"+digest(8))}})

	rollout := clustertest.Metadata{Name: "canary", UID: "0b8d7a2e-5c57-4e39-8f0a-27ee6f1ddc01"} // of a custom kind, which need not be there
	replicas = c.make(apps+"replicasets", object{
		"metadata": object{"name": "canary-77f9", "ownerReferences": ownedBy("argoproj.io/v1alpha1", "Rollout", rollout)},
		"spec":     object{"selector": selector, "template": template("canary")},
	})
	c.runPod(object{"name": "canary-77f9-abcde", "ownerReferences": ownedBy("apps/v1", "ReplicaSet", replicas)},
		object{"containers": containers("app", "shop/canary:4")},
		object{"containerStatuses": []object{status("app", "docker://"+id(9), "shop/canary:4", "docker-pullable://shop/canary@"+digest(9))}})

	c.runPod(object{"name": "bare"}, object{"containers": containers("sh", "busybox:1")},
		object{"containerStatuses": []object{status("sh", "containerd://"+id(10), "docker.io/library/busybox:1", "docker.io/library/busybox@"+digest(10))}})
	c.Do(http.MethodPatch, core+"pods/bare/ephemeralcontainers", object{"spec": object{"ephemeralContainers": containers("debugger", "debian:13")}})
	c.setStatus("bare", object{"ephemeralContainerStatuses": []object{status("debugger", "containerd://"+id(11), "docker.io/library/debian:13", "docker.io/library/debian@"+digest(11))}})

	c.runPod(object{"name": "elsewhere"}, object{"nodeName": "node-2", "containers": containers("sh", "busybox:1")},
		object{"containerStatuses": []object{status("sh", "containerd://"+id(12), "docker.io/library/busybox:1", "docker.io/library/busybox@"+digest(10))}})
}

// changeShop changes what [cluster.openShop] made.
func (c cluster) changeShop() {
	// A pod that comes and goes.
	c.runPod(object{"name": "flash"}, object{"containers": containers("sh", "busybox:1")},
		object{"containerStatuses": []object{status("sh", "containerd://"+id(13), "docker.io/library/busybox:1", "docker.io/library/busybox@"+digest(10))}})
	c.Do(http.MethodDelete, core+"pods/flash", object{"gracePeriodSeconds": 0})
	// A container that is restarted twice, once unseen.
	again := status("app", "containerd://"+id(14), "docker.io/library/nginx:latest", "docker.io/library/nginx@"+digest(1))
	again["restartCount"], again["lastState"] = 2, terminated("containerd://"+id(15))
	c.setStatus("web-6d4cf56db6-x7k2p", object{"containerStatuses": []object{again}})
	// A pod that is ended as usual: it is told to, and later is no more.
	c.Do(http.MethodDelete, core+"pods/db-0", nil)
	c.Do(http.MethodDelete, core+"pods/db-0", object{"gracePeriodSeconds": 0})
	// A change that does not matter.
	c.Do(http.MethodPatch, core+"pods/resolver-9xk2m/status", object{"status": object{"message": "still here"}})
}
