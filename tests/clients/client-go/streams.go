package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	watchtools "k8s.io/client-go/tools/watch"
	"k8s.io/client-go/transport/spdy"
	"k8s.io/client-go/util/exec"
)

const script = "echo started; mkdir /www; echo hello > /www/index.html; exec httpd -f -p 8080 -h /www"

// streams: a pod's logs, commands in it and its ports, over both transports.
func streams(c *cluster) {
	pods := c.typed.CoreV1().Pods(namespace)
	grace := int64(0)
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "web"}, Spec: corev1.PodSpec{
		TerminationGracePeriodSeconds: &grace,
		Containers: []corev1.Container{{Name: "main", Image: "kedge.test/busybox:1", Command: []string{"sh", "-c", script},
			ReadinessProbe: &corev1.Probe{PeriodSeconds: 1, ProbeHandler: corev1.ProbeHandler{
				TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt32(8080)}}}}}}}
	got(pods.Create(c.ctx, pod, metav1.CreateOptions{}))
	only := fields.OneTermEqualSelector("metadata.name", "web").String()
	lister := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
			options.FieldSelector = only
			return pods.List(ctx, options)
		},
		WatchFuncWithContext: func(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
			options.FieldSelector = only
			return pods.Watch(ctx, options)
		},
	}
	soon, stop := context.WithTimeout(c.ctx, patience)
	defer stop()
	ready := func(event watch.Event) (bool, error) {
		pod, is := event.Object.(*corev1.Pod)
		if !is {
			return false, fmt.Errorf("unexpected event %v", event)
		}
		for _, condition := range pod.Status.Conditions {
			if condition.Type == corev1.PodReady {
				return condition.Status == corev1.ConditionTrue, nil
			}
		}
		return false, nil
	}
	got(watchtools.UntilWithSync(soon, lister, &corev1.Pod{}, nil, ready))

	log := got(pods.GetLogs("web", &corev1.PodLogOptions{}).DoRaw(c.ctx))
	check(string(log) == "started\n", "log: %q", log)
	following := got(pods.GetLogs("web", &corev1.PodLogOptions{Follow: true, Timestamps: true}).Stream(c.ctx))
	line := make([]byte, 1024)
	n := got(following.Read(line))
	check(strings.HasSuffix(string(line[:n]), " started\n"), "followed: %q", line[:n])
	must(following.Close())

	for _, transport := range []string{"WebSocket", "SPDY"} {
		commands(c, transport)
		forward(c, transport)
	}
	must(pods.Delete(c.ctx, "web", metav1.DeleteOptions{}))
}

func commands(c *cluster, transport string) {
	run := func(command []string, options remotecommand.StreamOptions) error {
		request := c.typed.CoreV1().RESTClient().Post().Resource("pods").Namespace(namespace).Name("web").SubResource("exec").
			VersionedParams(&corev1.PodExecOptions{Container: "main", Command: command, Stdin: options.Stdin != nil,
				Stdout: options.Stdout != nil, Stderr: options.Stderr != nil, TTY: options.Tty}, scheme.ParameterCodec)
		var executor remotecommand.Executor
		if transport == "SPDY" {
			executor = got(remotecommand.NewSPDYExecutor(c.config, "POST", request.URL()))
		} else {
			executor = got(remotecommand.NewWebSocketExecutor(c.config, "GET", request.URL().String()))
		}
		soon, stop := context.WithTimeout(c.ctx, patience)
		defer stop()
		return executor.StreamWithContext(soon, options)
	}
	var out, problems bytes.Buffer
	err := run([]string{"sh", "-c", "echo out; echo err >&2; exit 7"}, remotecommand.StreamOptions{Stdout: &out, Stderr: &problems})
	code, is := err.(exec.CodeExitError)
	check(is && code.Code == 7, "%s: the exit code: %v", transport, err)
	check(out.String() == "out\n" && problems.String() == "err\n", "%s: %q %q", transport, &out, &problems)
	// All of standard input arrives, then its end; all that comes back is the same.
	payload := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	out.Reset()
	must(run([]string{"cat"}, remotecommand.StreamOptions{Stdin: bytes.NewReader(payload), Stdout: &out}))
	check(bytes.Equal(out.Bytes(), payload), "%s: %d of %d bytes came back", transport, out.Len(), len(payload))
	out.Reset()
	sizes := queue{{Width: 123, Height: 45}}
	wait := "until stty size | grep -q '45 123'; do sleep 0.05; done; echo resized"
	must(run([]string{"sh", "-c", wait}, remotecommand.StreamOptions{Stdout: &out, Tty: true, TerminalSizeQueue: &sizes}))
	check(strings.Contains(out.String(), "resized"), "%s: terminal: %q", transport, &out)
	err = run([]string{"no-such-command"}, remotecommand.StreamOptions{Stdout: &out})
	check(err != nil, "%s: a command that is not there ran", transport)
}

type queue []remotecommand.TerminalSize

func (q *queue) Next() *remotecommand.TerminalSize {
	if len(*q) == 0 {
		return nil
	}
	size := (*q)[0]
	*q = (*q)[1:]
	return &size
}

func forward(c *cluster, transport string) {
	address := c.typed.CoreV1().RESTClient().Post().Resource("pods").Namespace(namespace).Name("web").SubResource("portforward").URL()
	stop, ready := make(chan struct{}), make(chan struct{})
	dialer := got(portforward.NewSPDYOverWebsocketDialer(address, c.config))
	if transport == "SPDY" {
		tripper, upgrader, err := spdy.RoundTripperFor(c.config)
		must(err)
		dialer = spdy.NewDialer(upgrader, &http.Client{Transport: tripper}, "POST", address)
	}
	var problems bytes.Buffer
	forwarder := got(portforward.New(dialer, []string{"0:8080", "0:8081"}, stop, ready, io.Discard, &problems))
	ended := make(chan error, 1)
	go func() { ended <- forwarder.ForwardPorts() }()
	select {
	case <-ready:
	case err := <-ended:
		fail("%s: port-forward: %v", transport, err)
	case <-time.After(patience):
		fail("%s: port-forward is not ready", transport)
	}
	ports := got(forwarder.GetPorts())
	local := func(i int) string { return fmt.Sprintf("127.0.0.1:%d", ports[i].Local) }
	for range 3 {
		page := (&url.URL{Scheme: "http", Host: local(0), Path: "/"}).String()
		response := got((&http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}).Get(page))
		body := got(io.ReadAll(response.Body))
		must(response.Body.Close())
		check(string(body) == "hello\n", "%s: through the port: %q", transport, body)
	}
	// Nobody listens behind the second. The node says so on the error stream, upon which this client gives up.
	dead := got(net.Dial("tcp", local(1)))
	must(dead.SetDeadline(time.Now().Add(patience)))
	_, err := dead.Read(make([]byte, 1))
	check(err != nil, "%s: a byte from a port where nobody listens", transport)
	err = <-ended
	check(err == portforward.ErrLostConnectionToPod, "%s: the end of the port-forward: %v", transport, err)
}
