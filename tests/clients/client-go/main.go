// Command client-go speaks to a cluster as Go programs do: typed clients over protobuf, shared informers with WatchList,
// leader election, dynamic and metadata clients, discovery, and streams over WebSocket and SPDY. It stops at the first answer
// that is not what a cluster gives, with a non-zero exit code.
package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

const (
	namespace = "client-go"
	// How long anything may take that the cluster does on its own.
	patience = 60 * time.Second
)

// cluster is what every story needs.
type cluster struct {
	ctx    context.Context
	config *rest.Config
	typed  *kubernetes.Clientset
	wire   *wire
}

// wire remembers what went over it.
type wire struct {
	mutex sync.Mutex
	// Each request as "METHOD path?query -> content type of the answer".
	lines []string
}

func (w *wire) wrap(next http.RoundTripper) http.RoundTripper {
	return tripper(func(request *http.Request) (*http.Response, error) {
		response, err := next.RoundTrip(request)
		kind := ""
		if err == nil {
			kind = response.Header.Get("Content-Type")
		}
		w.mutex.Lock()
		defer w.mutex.Unlock()
		w.lines = append(w.lines, fmt.Sprintf("%s %s -> %s", request.Method, request.URL.RequestURI(), kind))
		return response, err
	})
}

// count says how many requests since the last call have all parts, and forgets them.
func (w *wire) count(parts ...string) int {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	found := 0
	for _, line := range w.lines {
		all := true
		for _, part := range parts {
			all = all && strings.Contains(line, part)
		}
		if all {
			found++
		}
	}
	return found
}

type tripper func(*http.Request) (*http.Response, error)

func (t tripper) RoundTrip(request *http.Request) (*http.Response, error) { return t(request) }

func must(err error) {
	if err != nil {
		fail("%v", err)
	}
}

func got[T any](value T, err error) T {
	must(err)
	return value
}

func check(ok bool, format string, args ...any) {
	if !ok {
		fail(format, args...)
	}
}

func fail(format string, args ...any) {
	panic(fmt.Sprintf(format, args...))
}

func main() {
	ctx, stop := context.WithTimeout(context.Background(), 4*time.Minute)
	defer stop()
	config := got(clientcmd.BuildConfigFromFlags("", os.Getenv("KUBECONFIG")))
	config.QPS, config.Burst = -1, -1
	w := &wire{}
	config.Wrap(w.wrap)
	c := &cluster{ctx: ctx, config: config, typed: got(kubernetes.NewForConfig(config)), wire: w}
	got(c.typed.CoreV1().Namespaces().Create(ctx,
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}, metav1.CreateOptions{}))
	for _, story := range []struct {
		name string
		run  func(*cluster)
	}{
		{"typed", typed}, {"errors", errors}, {"informers", informers}, {"election", election},
		{"untyped", untyped}, {"discovery", discover}, {"streams", streams},
	} {
		began := time.Now()
		story.run(c)
		fmt.Printf("%s: ok in %s\n", story.name, time.Since(began).Round(time.Millisecond))
	}
	must(c.typed.CoreV1().Namespaces().Delete(ctx, namespace, metav1.DeleteOptions{}))
}
