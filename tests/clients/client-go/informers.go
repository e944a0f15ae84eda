package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	clientinformers "k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

// kindsAtLeast is how many kinds a server has that can be watched.
const kindsAtLeast = 20

// informers: every built-in kind in one factory, filled by watches that bring the initial state. No list is sent.
func informers(c *cluster) {
	ctx, stop := context.WithCancel(c.ctx)
	defer stop()
	factory := clientinformers.NewSharedInformerFactory(c.typed, 0)
	core := factory.Core().V1()
	kinds := watchable(c, factory)
	events := make(chan string, 64)
	heard := func(kind string, object any) {
		if m, is := object.(*corev1.ConfigMap); is && m.Namespace == namespace && m.Labels["app"] == "typed" {
			events <- kind + " " + m.Name
		}
	}
	got(core.ConfigMaps().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(object any) { heard("add", object) },
		UpdateFunc: func(_, object any) { heard("update", object) },
		DeleteFunc: func(object any) { heard("delete", object) },
	}))
	factory.Start(ctx.Done())
	synced, giveUp := context.WithTimeout(ctx, patience)
	defer giveUp()
	for kind, done := range factory.WaitForCacheSync(synced.Done()) {
		check(done, "%s did not sync", kind)
	}
	for _, kind := range kinds {
		path := "/apis/" + kind.Group + "/" + kind.Version
		if kind.Group == "" {
			path = "/api/" + kind.Version
		}
		path += "/" + kind.Resource + "?"
		check(c.wire.count("GET", path, "sendInitialEvents=true", "protobuf;stream=watch") == 1, "%s: no watch-list: %v", path, c.wire.lines)
		check(c.wire.count("GET", path+"limit=") == 0, "%s was listed", path)
	}
	nodes := got(core.Nodes().Lister().List(labels.Everything()))
	check(len(nodes) == 1, "nodes: %v", nodes)
	got(core.Namespaces().Lister().Get("kube-system"))

	maps := c.typed.CoreV1().ConfigMaps(namespace)
	made := got(maps.Create(ctx, configMap("seen", nil), metav1.CreateOptions{}))
	made.Data = map[string]string{"a": "b"}
	got(maps.Update(ctx, made, metav1.UpdateOptions{}))
	must(maps.Delete(ctx, "seen", metav1.DeleteOptions{}))
	for _, expected := range []string{"add seen", "update seen", "delete seen"} {
		select {
		case event := <-events:
			check(event == expected, "expected %q, heard %q", expected, event)
		case <-time.After(patience):
			fail("%q was not heard", expected)
		}
	}
	stop()
	factory.Shutdown()
}

// watchable gives the factory each kind that the server lets one watch and that this client has a type for.
func watchable(c *cluster, factory clientinformers.SharedInformerFactory) []schema.GroupVersionResource {
	lists := got(discovery.NewDiscoveryClientForConfigOrDie(c.config).ServerPreferredResources())
	var kinds []schema.GroupVersionResource
	for kind := range got(discovery.GroupVersionResources(discovery.FilteredBy(discovery.SupportsAllVerbs{Verbs: []string{"list", "watch"}}, lists))) {
		if informer, err := factory.ForResource(kind); err == nil {
			informer.Informer()
			kinds = append(kinds, kind)
		}
	}
	check(len(kinds) >= kindsAtLeast, "%d kinds: %v", len(kinds), kinds)
	return kinds
}

// election: two candidates, one Lease. The one that steps down is followed by the other.
func election(c *cluster) {
	var mutex sync.Mutex
	var leaders []string
	elected := make(chan string, 4)
	var ends [2]context.CancelFunc
	var running sync.WaitGroup
	for i := range ends {
		identity := fmt.Sprintf("candidate-%d", i)
		ctx, end := context.WithCancel(c.ctx)
		ends[i] = end
		lock := got(resourcelock.NewFromKubeconfig(resourcelock.LeasesResourceLock, namespace, "election",
			resourcelock.ResourceLockConfig{Identity: identity}, c.config, 10*time.Second))
		running.Add(1)
		go func() {
			defer running.Done()
			leaderelection.RunOrDie(ctx, leaderelection.LeaderElectionConfig{
				Lock: lock, ReleaseOnCancel: true, Name: "election",
				LeaseDuration: 3 * time.Second, RenewDeadline: 2 * time.Second, RetryPeriod: 500 * time.Millisecond,
				Callbacks: leaderelection.LeaderCallbacks{
					OnStartedLeading: func(ctx context.Context) {
						mutex.Lock()
						leaders = append(leaders, identity)
						mutex.Unlock()
						elected <- identity
						<-ctx.Done()
					},
					OnStoppedLeading: func() {},
				},
			})
		}()
	}
	next := func() string {
		select {
		case who := <-elected:
			return who
		case <-time.After(patience):
			fail("nobody was elected")
			return ""
		}
	}
	first := next()
	lease := got(c.typed.CoordinationV1().Leases(namespace).Get(c.ctx, "election", metav1.GetOptions{}))
	check(lease.Spec.HolderIdentity != nil && *lease.Spec.HolderIdentity == first, "the lease: %v", lease.Spec)
	ends[first[len(first)-1]-'0']()
	second := next()
	check(second != first, "%s was elected twice", first)
	for _, end := range ends {
		end()
	}
	running.Wait()
	lease = got(c.typed.CoordinationV1().Leases(namespace).Get(c.ctx, "election", metav1.GetOptions{}))
	check(lease.Spec.LeaseTransitions != nil && *lease.Spec.LeaseTransitions >= 1, "the lease: %v", lease.Spec)
	// Who steps down leaves an empty name behind, so that nobody has to wait for the lease to run out.
	nobody := ""
	lease.Spec.HolderIdentity = &nobody
	got(c.typed.CoordinationV1().Leases(namespace).Update(c.ctx, lease, metav1.UpdateOptions{}))
	mutex.Lock()
	defer mutex.Unlock()
	check(len(leaders) == 2, "leaders: %v", leaders)
}
