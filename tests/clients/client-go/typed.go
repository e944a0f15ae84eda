package main

import (
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/util/retry"
)

func configMap(name string, data map[string]string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": "typed"}}, Data: data}
}

// typed: every verb through a typed client, whose bodies are protobuf both ways.
func typed(c *cluster) {
	ctx, maps := c.ctx, c.typed.CoreV1().ConfigMaps(namespace)
	one := got(maps.Create(ctx, configMap("one", map[string]string{"k": "v"}), metav1.CreateOptions{}))
	check(one.UID != "" && one.ResourceVersion != "" && one.Data["k"] == "v", "created: %v", one)
	check(c.wire.count("POST", "/configmaps", "application/vnd.kubernetes.protobuf") == 1, "not protobuf: %v", c.wire.lines)

	read := got(maps.Get(ctx, "one", metav1.GetOptions{}))
	check(read.ResourceVersion == one.ResourceVersion && read.CreationTimestamp == one.CreationTimestamp, "read: %v", read)

	watching := got(maps.Watch(ctx, metav1.ListOptions{ResourceVersion: one.ResourceVersion, LabelSelector: "app=typed"}))
	defer watching.Stop()
	next := func(kind watch.EventType, name string) *corev1.ConfigMap {
		event, open := <-watching.ResultChan()
		check(open && event.Type == kind, "expected %s of %s, got %v", kind, name, event)
		object := event.Object.(*corev1.ConfigMap)
		check(object.Name == name, "expected %s, got %s", name, object.Name)
		return object
	}
	read.Data["k"] = "w"
	updated := got(maps.Update(ctx, read, metav1.UpdateOptions{}))
	check(next(watch.Modified, "one").ResourceVersion == updated.ResourceVersion, "the event is another version")

	_, err := maps.Update(ctx, one, metav1.UpdateOptions{})
	check(apierrors.IsConflict(err), "a stale update: %v", err)
	must(retry.RetryOnConflict(retry.DefaultRetry, func() error {
		fresh := got(maps.Get(ctx, "one", metav1.GetOptions{}))
		fresh.Data["again"] = "1"
		_, err := maps.Update(ctx, fresh, metav1.UpdateOptions{})
		return err
	}))
	next(watch.Modified, "one")
	for kind, patch := range map[types.PatchType]string{
		types.MergePatchType:          `{"data":{"k":null,"merge":"1"}}`,
		types.JSONPatchType:           `[{"op":"add","path":"/data/json","value":"1"}]`,
		types.StrategicMergePatchType: `{"data":{"strategic":"1"}}`,
	} {
		got(maps.Patch(ctx, "one", kind, []byte(patch), metav1.PatchOptions{}))
		next(watch.Modified, "one")
	}
	data := got(maps.Get(ctx, "one", metav1.GetOptions{})).Data
	check(len(data) == 4 && data["k"] == "" && data["json"] == "1", "after the patches: %v", data)

	dry := got(maps.Create(ctx, configMap("dry", nil), metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}}))
	check(dry.UID != "", "a dry run answers as if")
	_, err = maps.Get(ctx, "dry", metav1.GetOptions{})
	check(apierrors.IsNotFound(err), "a dry run has written: %v", err)

	for _, name := range []string{"two", "three", "four"} {
		got(maps.Create(ctx, configMap(name, nil), metav1.CreateOptions{}))
		next(watch.Added, name)
	}
	page := got(maps.List(ctx, metav1.ListOptions{Limit: 3, LabelSelector: "app in (typed)"}))
	check(len(page.Items) == 3 && page.Continue != "", "a page: %v", page.ListMeta)
	rest := got(maps.List(ctx, metav1.ListOptions{Limit: 3, LabelSelector: "app in (typed)", Continue: page.Continue}))
	check(len(rest.Items) == 1 && rest.Continue == "" && rest.ResourceVersion == page.ResourceVersion, "the rest: %v", rest.ListMeta)

	// A change of labels takes an object out of what is watched.
	got(maps.Patch(ctx, "four", types.MergePatchType, []byte(`{"metadata":{"labels":{"app":"other"}}}`), metav1.PatchOptions{}))
	check(next(watch.Deleted, "four").Labels["app"] == "typed", "the last state that matched")
	must(maps.Delete(ctx, "one", metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(one.UID))}))
	next(watch.Deleted, "one")
	must(maps.DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "app=typed"}))
	next(watch.Deleted, "three")
	next(watch.Deleted, "two")

	replicas := int32(0)
	labels := map[string]string{"app": "d"}
	deployments := c.typed.AppsV1().Deployments(namespace)
	got(deployments.Create(ctx, &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "d"}, Spec: appsv1.DeploymentSpec{
		Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: labels},
		Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{
			Containers: []corev1.Container{{Name: "c", Image: "kedge.test/none:1"}}}}}}, metav1.CreateOptions{}))
	// Its controller writes at the same time.
	must(retry.RetryOnConflict(retry.DefaultRetry, func() error {
		scale := got(deployments.GetScale(ctx, "d", metav1.GetOptions{}))
		check(scale.Spec.Replicas == 0 && scale.Status.Selector == "app=d", "scale: %v", scale)
		scaled, err := deployments.UpdateScale(ctx, "d", &autoscalingv1.Scale{ObjectMeta: scale.ObjectMeta,
			Spec: autoscalingv1.ScaleSpec{Replicas: 0}}, metav1.UpdateOptions{})
		check(err != nil || scaled.Name == "d", "scaled: %v", scaled)
		return err
	}))
	must(deployments.Delete(ctx, "d", metav1.DeleteOptions{}))
}

// errors: what typed callers tell apart by reason.
func errors(c *cluster) {
	ctx, maps := c.ctx, c.typed.CoreV1().ConfigMaps(namespace)
	got(maps.Create(ctx, configMap("there", nil), metav1.CreateOptions{}))
	_, err := maps.Create(ctx, configMap("there", nil), metav1.CreateOptions{})
	check(apierrors.IsAlreadyExists(err), "%v", err)
	_, err = maps.Create(ctx, configMap("No_Name", nil), metav1.CreateOptions{})
	check(apierrors.IsInvalid(err) && apierrors.HasStatusCause(err, metav1.CauseTypeFieldValueInvalid), "%v", err)
	_, err = maps.List(ctx, metav1.ListOptions{LabelSelector: "a b"})
	check(apierrors.IsBadRequest(err), "%v", err)
	ahead := metav1.ListOptions{ResourceVersion: "4000000000", ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan}
	err = c.typed.CoreV1().RESTClient().Get().Resource("configmaps").VersionedParams(&ahead, scheme.ParameterCodec).
		MaxRetries(0).Do(ctx).Error()
	check(apierrors.IsTimeout(err) && apierrors.HasStatusCause(err, metav1.CauseTypeResourceVersionTooLarge), "%v", err)
	_, err = c.typed.CoreV1().ConfigMaps("nowhere").Create(ctx, configMap("a", nil), metav1.CreateOptions{})
	check(apierrors.IsNotFound(err), "%v", err)
	large := configMap("large", map[string]string{"k": strings.Repeat("x", 4<<20)})
	_, err = maps.Create(ctx, large, metav1.CreateOptions{})
	check(apierrors.IsRequestEntityTooLargeError(err), "%v", err)
	must(maps.Delete(ctx, "there", metav1.DeleteOptions{}))
}
