// Writes the goldens that tie codec and patch to what Kubernetes' own Go libraries do: go run . <kind of golden>
package main

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"reflect"
	"sort"
	"strings"
	"time"

	admission "k8s.io/api/admission/v1"
	apps "k8s.io/api/apps/v1"
	authv1 "k8s.io/api/authentication/v1"
	autoscaling "k8s.io/api/autoscaling/v1"
	coordination "k8s.io/api/coordination/v1"
	core "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	policy "k8s.io/api/policy/v1"
	rbac "k8s.io/api/rbac/v1"
	apiext "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	kjson "k8s.io/apimachinery/pkg/runtime/serializer/json"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/client-go/kubernetes/scheme"
	aggregator "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	"sigs.k8s.io/randfill"
)

var all = runtime.NewScheme()

func p[T any](v T) *T { return &v }

var when = metav1.NewTime(time.Date(2024, 5, 6, 7, 8, 9, 0, time.UTC))
var whenMicro = metav1.NewMicroTime(time.Date(2024, 5, 6, 7, 8, 9, 123456000, time.UTC))

type object struct {
	Name  string          `json:"name"`
	GVK   [3]string       `json:"gvk"`
	JSON  json.RawMessage `json:"json"`
	Proto string          `json:"proto"`
}

func emit(v any) {
	e := json.NewEncoder(os.Stdout)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		panic(err)
	}
}

func gvkOf(o runtime.Object) schema.GroupVersionKind {
	gvks, _, err := all.ObjectKinds(o)
	if err != nil {
		t := reflect.TypeOf(o).Elem()
		if strings.HasSuffix(t.PkgPath(), "meta/v1") {
			return schema.GroupVersionKind{Group: "meta.k8s.io", Version: "v1", Kind: t.Name()}
		}
		panic(err)
	}
	for _, gvk := range gvks {
		if gvk.Version != runtime.APIVersionInternal {
			if strings.HasSuffix(reflect.TypeOf(o).Elem().PkgPath(), "meta/v1") && gvk.Kind != "Status" {
				return schema.GroupVersionKind{Group: "meta.k8s.io", Version: "v1", Kind: gvk.Kind}
			}
			return gvk
		}
	}
	panic(gvks)
}

func write(name string, o runtime.Object) {
	gvk := gvkOf(o)
	o.GetObjectKind().SetGroupVersionKind(gvk)
	s := protobuf.NewSerializer(all, all)
	var b strings.Builder
	if err := s.Encode(o, &b); err != nil {
		fmt.Fprintln(os.Stderr, "skip", name, err)
		return
	}
	// What the JSON of the decoded object is, since protobuf cannot tell empty from nil.
	back, _, err := s.Decode([]byte(b.String()), nil, nil)
	if err != nil {
		fmt.Fprintln(os.Stderr, "decode", name, err)
		return
	}
	back.GetObjectKind().SetGroupVersionKind(gvk)
	j, err := json.Marshal(back)
	if err != nil {
		fmt.Fprintln(os.Stderr, "json", name, err)
		return
	}
	emit(object{name, [3]string{gvk.Group, gvk.Version, gvk.Kind}, j, hex.EncodeToString([]byte(b.String()))})
}

func podSpec() core.PodSpec {
	return core.PodSpec{
		Volumes: []core.Volume{
			{Name: "e", VolumeSource: core.VolumeSource{EmptyDir: &core.EmptyDirVolumeSource{SizeLimit: p(resource.MustParse("64Mi"))}}},
			{Name: "c", VolumeSource: core.VolumeSource{ConfigMap: &core.ConfigMapVolumeSource{LocalObjectReference: core.LocalObjectReference{Name: "cm"}, DefaultMode: p(int32(420))}}},
			{Name: "t", VolumeSource: core.VolumeSource{Projected: &core.ProjectedVolumeSource{Sources: []core.VolumeProjection{{ServiceAccountToken: &core.ServiceAccountTokenProjection{ExpirationSeconds: p(int64(3607)), Path: "token"}}}}}},
			{Name: "h", VolumeSource: core.VolumeSource{HostPath: &core.HostPathVolumeSource{Path: "/x", Type: p(core.HostPathDirectory)}}},
		},
		InitContainers: []core.Container{{Name: "i", Image: "busybox", RestartPolicy: p(core.ContainerRestartPolicyAlways)}},
		Containers: []core.Container{{
			Name: "web", Image: "nginx:1", Command: []string{"/bin/sh"}, Args: []string{"-c", ""},
			Ports: []core.ContainerPort{{ContainerPort: 80, Protocol: core.ProtocolTCP}, {Name: "m", ContainerPort: 8080, HostPort: -1}},
			Env: []core.EnvVar{{Name: "A", Value: "1"}, {Name: "B", ValueFrom: &core.EnvVarSource{SecretKeyRef: &core.SecretKeySelector{LocalObjectReference: core.LocalObjectReference{Name: "s"}, Key: "k", Optional: p(false)}}},
				{Name: "C", ValueFrom: &core.EnvVarSource{ResourceFieldRef: &core.ResourceFieldSelector{Resource: "limits.cpu"}}}},
			EnvFrom: []core.EnvFromSource{{Prefix: "P", ConfigMapRef: &core.ConfigMapEnvSource{LocalObjectReference: core.LocalObjectReference{Name: "cm"}}}},
			Resources: core.ResourceRequirements{Limits: core.ResourceList{"cpu": resource.MustParse("500m"), "memory": resource.MustParse("1Gi")}, Requests: core.ResourceList{"cpu": resource.MustParse("0.1")}},
			VolumeMounts:   []core.VolumeMount{{Name: "e", MountPath: "/e", ReadOnly: true}},
			LivenessProbe:  &core.Probe{ProbeHandler: core.ProbeHandler{HTTPGet: &core.HTTPGetAction{Path: "/", Port: intstr.FromString("http"), HTTPHeaders: []core.HTTPHeader{{Name: "X", Value: "y"}}}}, PeriodSeconds: 10},
			ReadinessProbe: &core.Probe{ProbeHandler: core.ProbeHandler{TCPSocket: &core.TCPSocketAction{Port: intstr.FromInt32(80)}}, TerminationGracePeriodSeconds: p(int64(0))},
			Lifecycle:      &core.Lifecycle{PreStop: &core.LifecycleHandler{Exec: &core.ExecAction{Command: []string{"true"}}}},
			SecurityContext: &core.SecurityContext{RunAsUser: p(int64(0)), Capabilities: &core.Capabilities{Drop: []core.Capability{"ALL"}}, ReadOnlyRootFilesystem: p(true)},
			TTY:             true,
		}},
		EphemeralContainers: []core.EphemeralContainer{{EphemeralContainerCommon: core.EphemeralContainerCommon{Name: "dbg", Image: "busybox"}, TargetContainerName: "web"}},
		RestartPolicy:       core.RestartPolicyAlways, TerminationGracePeriodSeconds: p(int64(30)), DNSPolicy: core.DNSClusterFirst,
		NodeSelector: map[string]string{"b": "2", "a": "1"}, ServiceAccountName: "default", NodeName: "n1", HostNetwork: true,
		SecurityContext: &core.PodSecurityContext{FSGroup: p(int64(-1)), SupplementalGroups: []int64{1, 2, 300}, Sysctls: []core.Sysctl{{Name: "a", Value: "b"}}},
		Affinity: &core.Affinity{NodeAffinity: &core.NodeAffinity{PreferredDuringSchedulingIgnoredDuringExecution: []core.PreferredSchedulingTerm{{Weight: 1, Preference: core.NodeSelectorTerm{MatchExpressions: []core.NodeSelectorRequirement{{Key: "k", Operator: "In", Values: []string{"v"}}}}}}}},
		Tolerations:               []core.Toleration{{Key: "k", Operator: "Exists", Effect: "NoExecute", TolerationSeconds: p(int64(300))}},
		TopologySpreadConstraints: []core.TopologySpreadConstraint{{MaxSkew: 1, TopologyKey: "zone", WhenUnsatisfiable: "DoNotSchedule", LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"a": "b"}}}},
		Overhead:                  core.ResourceList{"cpu": resource.MustParse("1")},
		ReadinessGates:            []core.PodReadinessGate{{ConditionType: "x/y"}},
	}
}

func objects() {
	meta := metav1.ObjectMeta{Name: "a", Namespace: "ns", UID: "u-1", ResourceVersion: "42", Generation: 3, CreationTimestamp: when, DeletionTimestamp: &when, DeletionGracePeriodSeconds: p(int64(0)),
		Labels: map[string]string{"z": "1", "a": "", "ä": "ü"}, Annotations: map[string]string{"k": "line\n\"q\""}, Finalizers: []string{"f/x"},
		OwnerReferences: []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "rs", UID: "u-0", Controller: p(true)}},
		ManagedFields:   []metav1.ManagedFieldsEntry{{Manager: "m", Operation: "Update", APIVersion: "v1", Time: &when, FieldsType: "FieldsV1", FieldsV1: &metav1.FieldsV1{Raw: []byte(`{"f:data":{".":{}}}`)}}}}
	plain := metav1.ObjectMeta{Name: "a"}
	pod := &core.Pod{ObjectMeta: meta, Spec: podSpec(), Status: core.PodStatus{Phase: core.PodRunning, StartTime: &when, PodIPs: []core.PodIP{{IP: "10.0.0.1"}}, QOSClass: "Burstable",
		Conditions:        []core.PodCondition{{Type: "Ready", Status: "True", LastTransitionTime: when}},
		ContainerStatuses: []core.ContainerStatus{{Name: "web", Ready: true, RestartCount: 2, State: core.ContainerState{Running: &core.ContainerStateRunning{StartedAt: when}}, LastTerminationState: core.ContainerState{Terminated: &core.ContainerStateTerminated{ExitCode: -1, Reason: "Error"}}, Started: p(false)}}}}
	write("pod", pod)
	write("pod, empty", &core.Pod{})
	write("pods", &core.PodList{ListMeta: metav1.ListMeta{ResourceVersion: "7", Continue: "c", RemainingItemCount: p(int64(3))}, Items: []core.Pod{{ObjectMeta: plain}, *pod}})
	write("deployment", &apps.Deployment{ObjectMeta: meta, Spec: apps.DeploymentSpec{Replicas: p(int32(0)), Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"a": "b"}, MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "k", Operator: "Exists"}}},
		Template: core.PodTemplateSpec{Spec: core.PodSpec{Containers: []core.Container{{Name: "c"}}}}, Strategy: apps.DeploymentStrategy{Type: "RollingUpdate", RollingUpdate: &apps.RollingUpdateDeployment{MaxSurge: p(intstr.FromString("25%")), MaxUnavailable: p(intstr.FromInt32(1))}}, Paused: true}, Status: apps.DeploymentStatus{ObservedGeneration: 1, Conditions: []apps.DeploymentCondition{{Type: "Available", Status: "True", LastUpdateTime: when}}, CollisionCount: p(int32(0))}})
	write("service", &core.Service{ObjectMeta: plain, Spec: core.ServiceSpec{Ports: []core.ServicePort{{Name: "http", Port: 80, TargetPort: intstr.FromString("http"), NodePort: 30000, AppProtocol: p("h2c")}, {Port: 443, TargetPort: intstr.FromInt32(8443)}, {Port: 1}}, ClusterIPs: []string{"10.43.0.1", "fd43::1"}, IPFamilies: []core.IPFamily{"IPv4"}, InternalTrafficPolicy: p(core.ServiceInternalTrafficPolicyCluster), SessionAffinityConfig: &core.SessionAffinityConfig{ClientIP: &core.ClientIPConfig{TimeoutSeconds: p(int32(10800))}}}})
	write("secret", &core.Secret{ObjectMeta: plain, Type: "Opaque", Immutable: p(false), Data: map[string][]byte{"empty": {}, "b": {0, 1, 255}, "a": []byte("text")}, StringData: map[string]string{"x": "y"}})
	write("configmap", &core.ConfigMap{ObjectMeta: plain, Data: map[string]string{"a": strings.Repeat("x", 300)}, BinaryData: map[string][]byte{"b": {1}}})
	write("event", &core.Event{ObjectMeta: plain, InvolvedObject: core.ObjectReference{Kind: "Pod", Name: "a"}, Reason: "R", Message: "m", Count: 3, FirstTimestamp: when, EventTime: whenMicro, Series: &core.EventSeries{Count: 2, LastObservedTime: whenMicro}, Type: "Normal"})
	write("lease", &coordination.Lease{ObjectMeta: plain, Spec: coordination.LeaseSpec{HolderIdentity: p("me"), LeaseDurationSeconds: p(int32(15)), RenewTime: &whenMicro, LeaseTransitions: p(int32(0))}})
	write("node", &core.Node{ObjectMeta: plain, Spec: core.NodeSpec{PodCIDRs: []string{"10.42.0.0/24"}, Taints: []core.Taint{{Key: "k", Effect: "NoSchedule", TimeAdded: &when}}, Unschedulable: true}, Status: core.NodeStatus{Capacity: core.ResourceList{"cpu": resource.MustParse("4"), "memory": resource.MustParse("16331752Ki"), "ephemeral-storage": resource.MustParse("1e3"), "pods": resource.MustParse("110"), "x/n": resource.MustParse("1500n")}, DaemonEndpoints: core.NodeDaemonEndpoints{KubeletEndpoint: core.DaemonEndpoint{Port: 10250}}, Images: []core.ContainerImage{{Names: []string{"a"}, SizeBytes: 1 << 40}}}})
	write("status", &metav1.Status{Status: "Failure", Code: 404, Reason: "NotFound", Message: "no", Details: &metav1.StatusDetails{Name: "a", Kind: "pods", RetryAfterSeconds: 1, Causes: []metav1.StatusCause{{Type: "X", Field: "f"}}}})
	write("delete options", &metav1.DeleteOptions{GracePeriodSeconds: p(int64(0)), Preconditions: &metav1.Preconditions{UID: p(types.UID("u"))}, PropagationPolicy: p(metav1.DeletePropagationForeground), DryRun: []string{"All"}})
	write("scale", &autoscaling.Scale{ObjectMeta: plain, Spec: autoscaling.ScaleSpec{Replicas: 3}, Status: autoscaling.ScaleStatus{Replicas: 1, Selector: "a=b"}})
	write("token request", &authv1.TokenRequest{Spec: authv1.TokenRequestSpec{Audiences: []string{"a"}, ExpirationSeconds: p(int64(3607)), BoundObjectRef: &authv1.BoundObjectReference{Kind: "Pod"}}, Status: authv1.TokenRequestStatus{Token: "t", ExpirationTimestamp: when}})
	write("token review", &authv1.TokenReview{Status: authv1.TokenReviewStatus{User: authv1.UserInfo{Username: "u", Extra: map[string]authv1.ExtraValue{"k": {"a", "b"}, "e": {}}}}})
	write("eviction", &policy.Eviction{ObjectMeta: plain, DeleteOptions: &metav1.DeleteOptions{}})
	write("binding", &core.Binding{ObjectMeta: plain, Target: core.ObjectReference{Kind: "Node", Name: "n1"}})
	write("role", &rbac.ClusterRole{ObjectMeta: plain, Rules: []rbac.PolicyRule{{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{"pods"}}}})
	write("role without rules", &rbac.ClusterRole{ObjectMeta: plain, AggregationRule: &rbac.AggregationRule{ClusterRoleSelectors: []metav1.LabelSelector{{}}}})
	write("endpointslice", &discovery.EndpointSlice{ObjectMeta: plain, AddressType: "IPv4", Endpoints: []discovery.Endpoint{{Addresses: []string{"10.42.0.2"}, Conditions: discovery.EndpointConditions{Ready: p(true), Terminating: p(false)}}}, Ports: []discovery.EndpointPort{{Port: p(int32(80))}}})
	write("statefulset", &apps.StatefulSet{ObjectMeta: plain, Spec: apps.StatefulSetSpec{VolumeClaimTemplates: []core.PersistentVolumeClaim{{ObjectMeta: plain, Spec: core.PersistentVolumeClaimSpec{StorageClassName: p("")}}}}})
	write("partial", &metav1.PartialObjectMetadata{ObjectMeta: meta})
	write("partials", &metav1.PartialObjectMetadataList{ListMeta: metav1.ListMeta{ResourceVersion: "9"}, Items: []metav1.PartialObjectMetadata{{ObjectMeta: plain}}})
	write("controller revision", &apps.ControllerRevision{ObjectMeta: plain, Revision: 4, Data: runtime.RawExtension{Raw: []byte(`{"a":[1,2]}`)}})
	write("crd", &apiext.CustomResourceDefinition{ObjectMeta: plain, Spec: apiext.CustomResourceDefinitionSpec{Group: "example.com", Scope: "Namespaced", Names: apiext.CustomResourceDefinitionNames{Plural: "ws", Kind: "W"}, Versions: []apiext.CustomResourceDefinitionVersion{{Name: "v1", Served: true, Schema: &apiext.CustomResourceValidation{OpenAPIV3Schema: &apiext.JSONSchemaProps{Type: "object", Maximum: p(1.5), Default: &apiext.JSON{Raw: []byte(`{"a":1}`)}, Enum: []apiext.JSON{{Raw: []byte(`"x"`)}},
		Items: &apiext.JSONSchemaPropsOrArray{Schema: &apiext.JSONSchemaProps{Type: "string"}}, AdditionalProperties: &apiext.JSONSchemaPropsOrBool{Allows: true}, AdditionalItems: &apiext.JSONSchemaPropsOrBool{Allows: true, Schema: &apiext.JSONSchemaProps{Type: "integer"}},
		Properties: map[string]apiext.JSONSchemaProps{"a": {Items: &apiext.JSONSchemaPropsOrArray{JSONSchemas: []apiext.JSONSchemaProps{{Type: "x"}}}}}, Dependencies: apiext.JSONSchemaDependencies{"d": {Property: []string{"a"}}}}}}}}})
}

// One filled object of every kind.
func filled() {
	kinds := []string{}
	byName := map[string]reflect.Type{}
	for gvk, t := range all.AllKnownTypes() {
		if !strings.HasPrefix(gvk.Version, "v") || strings.Contains(gvk.Version, "beta") || strings.Contains(gvk.Version, "alpha") || strings.HasSuffix(t.PkgPath(), "meta/v1") || strings.HasSuffix(gvk.Kind, "List") {
			continue
		}
		name := gvk.String()
		kinds = append(kinds, name)
		byName[name] = t
	}
	sort.Strings(kinds)
	n := 0
	for i, name := range kinds {
		f := randfill.NewWithSeed(int64(i)).NilChance(0.4).NumElements(1, 1).MaxDepth(12).Funcs(
			func(t *metav1.Time, c randfill.Continue) { *t = when },
			func(t *metav1.MicroTime, c randfill.Continue) { *t = whenMicro },
			func(t *metav1.TypeMeta, c randfill.Continue) {},
			func(t *metav1.FieldsV1, c randfill.Continue) { t.Raw = []byte(`{"f:a":{}}`) },
			func(t *metav1.ObjectMeta, c randfill.Continue) { t.Name = "a" },
			func(t *resource.Quantity, c randfill.Continue) { *t = resource.MustParse("12Mi") },
			func(t *runtime.RawExtension, c randfill.Continue) { t.Raw = []byte(`{"a":1}`) },
			func(t *apiext.JSON, c randfill.Continue) { t.Raw = []byte(`[1]`) },
			func(t *apiext.JSONSchemaPropsOrArray, c randfill.Continue) { t.Schema = &apiext.JSONSchemaProps{Type: "a"} },
			func(t *apiext.JSONSchemaPropsOrBool, c randfill.Continue) { t.Schema = &apiext.JSONSchemaProps{Type: "a"}; t.Allows = true },
			func(t *apiext.JSONSchemaPropsOrStringArray, c randfill.Continue) { t.Property = []string{"x"} },
			func(t *intstr.IntOrString, c randfill.Continue) { *t = intstr.FromInt32(c.Int31()) },
			func(t *string, c randfill.Continue) { n++; *t = fmt.Sprintf("s%d", n) },
		)
		o := reflect.New(byName[name]).Interface()
		f.Fill(o)
		write("filled "+name, o.(runtime.Object))
	}
}

type decodeCase struct {
	GVK    [3]string `json:"gvk"`
	Body   string    `json:"body"`
	Strict []string  `json:"strict,omitempty"`
	Error  string    `json:"error,omitempty"`
}

func decodes() {
	for _, c := range []struct{ apiVersion, kind, body string }{
		{"v1", "ConfigMap", `{"data":{"a":"1","a":"2"},"data":{},"Data":{},"metadata":{"name":"x","foo":1}}`},
		{"v1", "ConfigMap", `{"data":{"a":1}}`},
		{"v1", "ConfigMap", `{"data":["a"]}`},
		{"v1", "ConfigMap", `{"data":null,"immutable":"yes"}`},
		{"v1", "Secret", `{"data":{"a":"not base64"}}`},
		{"v1", "Secret", `{"data":{"a":"YQ"}}`},
		{"v1", "Secret", `{"data":{"a":"YQ=="},"stringData":{"b":true}}`},
		{"v1", "Pod", `{"spec":{"containers":[{"name":"a","ports":[{"containerPort":"80"}]}]}}`},
		{"v1", "Pod", `{"spec":{"containers":[{"name":"a","ports":[{"containerPort":8000000000}]}]}}`},
		{"v1", "Pod", `{"spec":{"containers":{"name":"a"}}}`},
		{"v1", "Pod", `{"spec":{"containers":["a"]}}`},
		{"v1", "Pod", `{"spec":{"containers":[{"name":"a","args":[1]}]}}`},
		{"v1", "Pod", `{"spec":{"containers":[{"name":"a","env":[{"name":"A","value":1}]}]}}`},
		{"v1", "Pod", `{"spec":{"containers":[{"name":"a","env":[{"name":"A","value":true}]}]}}`},
		{"v1", "Pod", `{"spec":{"containers":[{"name":"a","imagePullPolicy":1}]}}`},
		{"v1", "Pod", `{"spec":{"containers":[{"livenessProbe":{"httpGet":"x","periodSeconds":1.5}}]}}`},
		{"v1", "Pod", `{"spec":{"containers":[{"livenessProbe":{"periodSeconds":1.5}}]}}`},
		{"v1", "Pod", `{"spec":{"containers":[{"livenessProbe":{"httpGet":{"port":true}}}]}}`},
		{"v1", "Pod", `{"spec":{"containers":[{"livenessProbe":{"httpGet":{"path":1}}}]}}`},
		{"v1", "Pod", `{"spec":{"volumes":[{"emptyDir":1}]}}`},
		{"v1", "Pod", `{"spec":{"volumes":[{"emptyDir":{"medium":1}}]}}`},
		{"v1", "Pod", `{"spec":{"containers":[{"resources":{"limits":{"cpu":"abc"}}}]}}`},
		{"v1", "Pod", `{"spec":{"containers":[{"resources":{"limits":{"cpu":[]}}}]}}`},
		{"v1", "Pod", `{"spec":{"containers":[{"resources":{"limits":["cpu"]}}]}}`},
		{"v1", "Pod", `{"spec":{"restartPolicy":{}}}`},
		{"v1", "Pod", `{"spec":[]}`},
		{"v1", "Pod", `{"spec":"x"}`},
		{"v1", "Pod", `{"metadata":"x"}`},
		{"v1", "Pod", `{"metadata":{"labels":{"a":1}}}`},
		{"v1", "Pod", `{"metadata":{"labels":{"a":{}}}}`},
		{"v1", "Pod", `{"metadata":{"creationTimestamp":"yesterday"}}`},
		{"v1", "Pod", `{"metadata":{"creationTimestamp":5}}`},
		{"v1", "Pod", `{"metadata":{"ownerReferences":{"a":1}}}`},
		{"v1", "Pod", `{"metadata":{"name":5}}`},
		{"v1", "Pod", `{"spec":{"foo":1,"containers":[{"name":"a","Image":"x","image":"y","image":"z","securityContext":{"bar":{"a":1}}}],"nodeSelector":{"a":"b","a":"c"}},"extra":[1,{"a":2}]}`},
		{"v1", "Pod", `{"spec":{"volumes":[{"name":"a","emptyDir":{},"emptyDir":{},"nope":{}}]}}`},
		{"apps/v1", "Deployment", `{"spec":{"replicas":"3"}}`},
		{"apps/v1", "Deployment", `{"spec":{"replicas":3.5}}`},
		{"apps/v1", "Deployment", `{"spec":{"replicas":true}}`},
		{"apps/v1", "Deployment", `{"spec":{"replicas":{}}}`},
		{"apps/v1", "Deployment", `{"spec":{"selector":{"matchLabels":"a"}}}`},
		{"apps/v1", "Deployment", `{"spec":{"strategy":{"rollingUpdate":{"maxSurge":{}}}}}`},
		{"apps/v1", "Deployment", `{"spec":{"foo":1,"template":{"spec":{"foo":2,"containers":[{},{"foo":3}]}}}}`},
		{"v1", "Service", `{"spec":{"ports":[{"port":"80"}],"selector":["a"]}}`},
		{"v1", "Service", `{"spec":{"ports":[{"port":80,"targetPort":1.5}]}}`},
		{"rbac.authorization.k8s.io/v1", "Role", `{"rules":[{"verbs":"get"}]}`},
	} {
		gv, _ := schema.ParseGroupVersion(c.apiVersion)
		gvk := gv.WithKind(c.kind)
		s := kjson.NewSerializerWithOptions(kjson.DefaultMetaFactory, all, all, kjson.SerializerOptions{Strict: true})
		_, _, err := s.Decode([]byte(c.body), &gvk, nil)
		out := decodeCase{GVK: [3]string{gvk.Group, gvk.Version, gvk.Kind}, Body: c.body}
		if strict, ok := runtime.AsStrictDecodingError(err); ok {
			for _, e := range strict.Errors() {
				out.Strict = append(out.Strict, e.Error())
			}
		} else if err != nil {
			out.Error = err.Error()
		}
		emit(out)
	}
	// Bodies of which not even the kind can be read.
	for _, body := range []string{``, `{`, `[]`, `"x"`, `5`, `null`, `{"kind":5}`, `{"apiVersion":{}}`, `{"kind":"Pod",}`, `apiVersion: v1`, "\xff", `{"a":tru}`, `{"a":"\q"}`, `{"a":1 "b":2}`, `{"a":[1 2]}`, `{} {}`, `{"a":-}`, `{"a":1.}`, `{"a":1e}`, `{"a":nul`, `{'a':1}`, "{\"a\":\"\n\"}", `{"a":01}`} {
		_, err := kjson.DefaultMetaFactory.Interpret([]byte(body))
		out := decodeCase{Body: body}
		if err != nil {
			out.Error = err.Error()
		}
		if body == "\xff" {
			continue
		}
		emit(out)
	}
}

type patchCase struct {
	Name   string          `json:"name"`
	GVK    [3]string       `json:"gvk"`
	Object json.RawMessage `json:"object"`
	Patch  json.RawMessage `json:"patch"`
	Result json.RawMessage `json:"result,omitempty"`
	Error  string          `json:"error,omitempty"`
}

func patches() {
	deployment := func(spec string) string { return `{"apiVersion":"apps/v1","kind":"Deployment","spec":` + spec + `}` }
	pod := func(spec string) string { return `{"apiVersion":"v1","kind":"Pod","spec":` + spec + `}` }
	for _, c := range []struct {
		name   string
		of     any
		object string
		patch  string
	}{
		{"scalar", apps.Deployment{}, deployment(`{"replicas":1,"paused":true}`), `{"spec":{"replicas":5}}`},
		{"null deletes", apps.Deployment{}, deployment(`{"replicas":1,"paused":true}`), `{"spec":{"paused":null}}`},
		{"null of absent", apps.Deployment{}, deployment(`{"replicas":1}`), `{"spec":{"template":{"metadata":{"labels":{"a":null,"b":"1"}}},"paused":null}}`},
		{"map merges", core.Pod{}, `{"metadata":{"labels":{"a":"1","b":"2"}}}`, `{"metadata":{"labels":{"b":null,"c":"3"}}}`},
		{"map $patch replace", core.Pod{}, `{"metadata":{"labels":{"a":"1","b":"2"}}}`, `{"metadata":{"labels":{"$patch":"replace","c":"3"}}}`},
		{"map $patch delete", core.Pod{}, `{"metadata":{"labels":{"a":"1","b":"2"},"name":"x"}}`, `{"metadata":{"labels":{"$patch":"delete"}}}`},
		{"root $patch replace", core.Pod{}, `{"metadata":{"name":"x"}}`, `{"$patch":"replace","metadata":{"name":"y"}}`},
		{"$patch merge", core.Pod{}, `{"metadata":{"name":"x"}}`, `{"metadata":{"$patch":"merge","generateName":"y"}}`},
		{"$patch unknown", core.Pod{}, `{"metadata":{"name":"x"}}`, `{"metadata":{"$patch":"nonsense","generateName":"y"}}`},
		{"list by key", core.Pod{}, pod(`{"containers":[{"name":"a","image":"1"},{"name":"b","image":"2"}]}`), `{"spec":{"containers":[{"name":"b","image":"3"},{"name":"c","image":"4"}]}}`},
		{"list order of new items", core.Pod{}, pod(`{"containers":[{"name":"m","image":"1"}]}`), `{"spec":{"containers":[{"name":"z","image":"3"},{"name":"a","image":"4"}]}}`},
		{"list element delete", core.Pod{}, pod(`{"containers":[{"name":"a","image":"1"},{"name":"b","image":"2"}]}`), `{"spec":{"containers":[{"name":"a","$patch":"delete"}]}}`},
		{"list element delete of absent", core.Pod{}, pod(`{"containers":[{"name":"a","image":"1"}]}`), `{"spec":{"containers":[{"name":"q","$patch":"delete"}]}}`},
		{"list element replace", core.Pod{}, pod(`{"containers":[{"name":"a","image":"1","tty":true},{"name":"b"}]}`), `{"spec":{"containers":[{"name":"a","image":"9","$patch":"replace"}]}}`},
		{"list $patch replace", core.Pod{}, pod(`{"containers":[{"name":"a"},{"name":"b"}]}`), `{"spec":{"containers":[{"$patch":"replace"},{"name":"c"}]}}`},
		{"list without key", core.Pod{}, pod(`{"containers":[{"name":"a"}]}`), `{"spec":{"containers":[{"image":"x"}]}}`},
		{"list nested keys", core.Pod{}, pod(`{"containers":[{"name":"a","ports":[{"containerPort":80,"protocol":"TCP"},{"containerPort":53,"protocol":"UDP"}],"env":[{"name":"A","value":"1"}]}]}`), `{"spec":{"containers":[{"name":"a","ports":[{"containerPort":53,"name":"dns"}],"env":[{"name":"A","valueFrom":{"fieldRef":{"fieldPath":"x"}},"value":null},{"name":"B","value":"2"}]}]}}`},
		{"atomic list", core.Pod{}, pod(`{"containers":[{"name":"a","args":["1","2"]}],"tolerations":[{"key":"a"}]}`), `{"spec":{"containers":[{"name":"a","args":["3"]}],"tolerations":[{"key":"b"}]}}`},
		{"retain keys", apps.Deployment{}, deployment(`{"strategy":{"type":"RollingUpdate","rollingUpdate":{"maxSurge":1}}}`), `{"spec":{"strategy":{"$retainKeys":["type"],"type":"Recreate"}}}`},
		{"retain keys, missing", apps.Deployment{}, deployment(`{"strategy":{"type":"RollingUpdate","rollingUpdate":{"maxSurge":1}}}`), `{"spec":{"strategy":{"$retainKeys":["type"],"type":"Recreate","rollingUpdate":{"maxSurge":2}}}}`},
		{"retain keys in a volume", core.Pod{}, pod(`{"volumes":[{"name":"v","emptyDir":{}},{"name":"w","emptyDir":{}}]}`), `{"spec":{"volumes":[{"name":"v","$retainKeys":["name","hostPath"],"hostPath":{"path":"/x"}}]}}`},
		{"set element order", core.Pod{}, pod(`{"containers":[{"name":"a"},{"name":"b"},{"name":"x"}]}`), `{"spec":{"$setElementOrder/containers":[{"name":"c"},{"name":"b"},{"name":"a"}],"containers":[{"name":"c","image":"3"}]}}`},
		{"set element order only", core.Pod{}, pod(`{"containers":[{"name":"a"},{"name":"b"},{"name":"x"}]}`), `{"spec":{"$setElementOrder/containers":[{"name":"b"},{"name":"a"}]}}`},
		{"set element order with server-only items", core.Pod{}, pod(`{"containers":[{"name":"s1"},{"name":"a"},{"name":"s2"},{"name":"b"},{"name":"s3"}]}`), `{"spec":{"$setElementOrder/containers":[{"name":"b"},{"name":"n"},{"name":"a"}],"containers":[{"name":"n"},{"name":"a","image":"1"}]}}`},
		{"set element order mismatch", core.Pod{}, pod(`{"containers":[{"name":"a"}]}`), `{"spec":{"$setElementOrder/containers":[{"name":"a"}],"containers":[{"name":"b"}]}}`},
		{"set element order and delete", core.Pod{}, pod(`{"containers":[{"name":"a"},{"name":"b"}]}`), `{"spec":{"$setElementOrder/containers":[{"name":"b"}],"containers":[{"name":"a","$patch":"delete"}]}}`},
		{"primitive list merges", core.Pod{}, `{"metadata":{"finalizers":["a","b"]}}`, `{"metadata":{"finalizers":["b","c"]}}`},
		{"primitive list deletes", core.Pod{}, `{"metadata":{"finalizers":["a","b","c"]}}`, `{"metadata":{"$deleteFromPrimitiveList/finalizers":["b","z"],"finalizers":["d"]}}`},
		{"primitive list deletes only", core.Pod{}, `{"metadata":{"finalizers":["a","b","c"]}}`, `{"metadata":{"$deleteFromPrimitiveList/finalizers":["b"]}}`},
		{"primitive list order", core.Pod{}, `{"metadata":{"finalizers":["a","b","c"]}}`, `{"metadata":{"$setElementOrder/finalizers":["d","c","a"],"$deleteFromPrimitiveList/finalizers":["b"],"finalizers":["d"]}}`},
		{"list into nothing", core.Pod{}, pod(`{}`), `{"spec":{"containers":[{"name":"a","env":[{"name":"x","$patch":"delete"},{"name":"y","value":null}]}],"volumes":[{"$patch":"replace"}]}}`},
		{"directives into nothing", core.Pod{}, pod(`{}`), `{"spec":{"$setElementOrder/containers":[{"name":"a"}],"containers":[{"name":"a"}],"securityContext":{"$patch":"replace","runAsUser":1},"$retainKeys":["containers","securityContext"]}}`},
		{"list null", core.Pod{}, pod(`{"containers":[{"name":"a"}],"volumes":[{"name":"v"}]}`), `{"spec":{"volumes":null}}`},
		{"list to map", core.Pod{}, pod(`{"containers":[{"name":"a"}]}`), `{"spec":{"containers":{"name":"b"}}}`},
		{"map to scalar", core.Pod{}, `{"metadata":{"labels":{"a":"b"}}}`, `{"metadata":{"labels":"x"}}`},
		{"scalar to map", core.Pod{}, `{"metadata":{"labels":"x"}}`, `{"metadata":{"labels":{"a":"b"}}}`},
		{"conditions by type", core.Pod{}, `{"status":{"conditions":[{"type":"Ready","status":"True"},{"type":"X","status":"True"}]}}`, `{"status":{"$setElementOrder/conditions":[{"type":"X"},{"type":"Ready"}],"conditions":[{"type":"Ready","status":"False"}]}}`},
		{"service ports", core.Service{}, `{"spec":{"ports":[{"port":80,"name":"a"},{"port":443,"name":"b"}]}}`, `{"spec":{"ports":[{"port":80,"nodePort":30000}]}}`},
		{"kubectl apply", apps.Deployment{}, deployment(`{"replicas":3,"template":{"spec":{"containers":[{"name":"web","image":"nginx:1","ports":[{"containerPort":80,"protocol":"TCP"}],"env":[{"name":"A","value":"1"},{"name":"B","value":"2"}]}]}}}`),
			`{"metadata":{"annotations":{"k":"v"}},"spec":{"template":{"spec":{"$setElementOrder/containers":[{"name":"web"}],"containers":[{"$setElementOrder/env":[{"name":"B"},{"name":"C"}],"env":[{"name":"C","value":"3"},{"$patch":"delete","name":"A"}],"image":"nginx:2","name":"web"}]}}}}`},
		{"unknown field", core.Pod{}, pod(`{}`), `{"spec":{"foo":{"a":1}}}`},
		{"bad retainKeys", apps.Deployment{}, deployment(`{"strategy":{"type":"x"}}`), `{"spec":{"strategy":{"$retainKeys":"type"}}}`},
		{"resources map", core.Pod{}, pod(`{"containers":[{"name":"a","resources":{"limits":{"cpu":"1","memory":"1Gi"}}}]}`), `{"spec":{"containers":[{"name":"a","resources":{"limits":{"cpu":"2"},"requests":{"cpu":"1"}}}]}}`},
		{"owner references by uid", core.Pod{}, `{"metadata":{"ownerReferences":[{"uid":"1","name":"a"},{"uid":"2","name":"b"}]}}`, `{"metadata":{"ownerReferences":[{"uid":"1","$patch":"delete"},{"uid":"3","name":"c"}]}}`},
		{"secret data", core.Secret{}, `{"data":{"a":"YQ=="}}`, `{"data":{"b":"Yg==","a":null}}`},
		{"numbers keep their kind", core.Pod{}, pod(`{"terminationGracePeriodSeconds":9007199254740993}`), `{"spec":{"activeDeadlineSeconds":9007199254740993}}`},
		{"empty patch", core.Pod{}, pod(`{"containers":[{"name":"a"}]}`), `{}`},
		{"taints", core.Node{}, `{"spec":{"taints":[{"key":"a","effect":"NoSchedule"}]}}`, `{"spec":{"taints":[{"key":"b","effect":"NoExecute"}]}}`},
	} {
		o := reflect.New(reflect.TypeOf(c.of)).Interface().(runtime.Object)
		gvk := gvkOf(o)
		out, err := strategicpatch.StrategicMergePatch([]byte(c.object), []byte(c.patch), c.of)
		res := patchCase{Name: c.name, GVK: [3]string{gvk.Group, gvk.Version, gvk.Kind}, Object: json.RawMessage(c.object), Patch: json.RawMessage(c.patch)}
		if err != nil {
			res.Error = err.Error()
		} else {
			res.Result = out
		}
		emit(res)
	}
}

func jsonPatches() {
	object := `{"a":{"b":[1,2,3],"c/d":"x","e~f":null},"n":1}`
	for _, patch := range []string{
		`[{"op":"add","path":"/a/x","value":{"y":1}}]`,
		`[{"op":"add","path":"/a/b/0","value":0},{"op":"add","path":"/a/b/-","value":9},{"op":"add","path":"/a/b/-1","value":8}]`,
		`[{"op":"add","path":"/a/b/7","value":0}]`,
		`[{"op":"add","path":"/a/b/x","value":0}]`,
		`[{"op":"add","path":"/q/x","value":0}]`,
		`[{"op":"add","path":"","value":{}}]`,
		`[{"op":"add","value":{}}]`,
		`[{"op":"remove","path":"/a/b/1"},{"op":"remove","path":"/a/c~1d"},{"op":"remove","path":"/a/e~0f"}]`,
		`[{"op":"remove","path":"/a/q"}]`,
		`[{"op":"remove","path":"/q/r/s"}]`,
		`[{"op":"remove","path":"/a/b/3"}]`,
		`[{"op":"remove","path":"/a/b/z"}]`,
		`[{"op":"replace","path":"/n","value":2}]`,
		`[{"op":"replace","path":"/new","value":2}]`,
		`[{"op":"replace","path":"/a/b/9","value":2}]`,
		`[{"op":"replace","path":"/a/b/-1","value":2}]`,
		`[{"op":"replace","path":"/q/r","value":2}]`,
		`[{"op":"replace","path":"","value":{"z":1}}]`,
		`[{"op":"replace","value":1}]`,
		`[{"op":"move","from":"/n","path":"/a/n"}]`,
		`[{"op":"move","from":"/q","path":"/a/n"}]`,
		`[{"op":"move","from":"/q/r","path":"/a/n"}]`,
		`[{"op":"move","from":"/n","path":"/q/n"}]`,
		`[{"op":"move","path":"/q/n"}]`,
		`[{"op":"copy","from":"/a/b","path":"/bb"},{"op":"add","path":"/bb/-","value":1}]`,
		`[{"op":"copy","from":"/q/r","path":"/bb"}]`,
		`[{"op":"copy","from":"/n","path":"/q/r"}]`,
		`[{"op":"test","path":"/n","value":1},{"op":"test","path":"/a/b","value":[1,2,3]},{"op":"test","path":"/a/q","value":null},{"op":"test","path":"/a/e~0f","value":null}]`,
		`[{"op":"test","path":"/n","value":2}]`,
		`[{"op":"test","path":"/a/b/5","value":2}]`,
		`[{"op":"test","path":"/q/r","value":2}]`,
		`[{"op":"test","path":"/a/q","value":2}]`,
		`[{"op":"test","path":"/n"}]`,
		`[{"op":"frob","path":"/n"}]`,
		`[{"path":"/n"}]`,
		`[]`,
	} {
		res := patchCase{Name: patch, Object: json.RawMessage(object), Patch: json.RawMessage(patch)}
		p, err := jsonpatch.DecodePatch([]byte(patch))
		if err == nil {
			res.Result, err = p.Apply([]byte(object))
		}
		if err != nil {
			res.Error = err.Error()
			res.Result = nil
		}
		emit(res)
	}
}

// The first field of watch frames: what is streamed for one event.
func frames() {
	pod := &core.Pod{ObjectMeta: metav1.ObjectMeta{Name: "a", ResourceVersion: "5"}}
	pod.SetGroupVersionKind(gvkOf(pod))
	inner := protobuf.NewSerializer(all, all)
	var b strings.Builder
	if err := inner.Encode(pod, &b); err != nil {
		panic(err)
	}
	event := &metav1.WatchEvent{Type: "ADDED", Object: runtime.RawExtension{Raw: []byte(b.String())}}
	raw, err := event.Marshal()
	if err != nil {
		panic(err)
	}
	j, _ := json.Marshal(pod)
	emit(object{"ADDED", [3]string{"", "v1", "Pod"}, j, fmt.Sprintf("%08x", len(raw)) + hex.EncodeToString(raw)})
}

func main() {
	for _, add := range []func(*runtime.Scheme) error{scheme.AddToScheme, apiext.AddToScheme, aggregator.AddToScheme, admission.AddToScheme} {
		if err := add(all); err != nil {
			panic(err)
		}
	}
	metav1.AddToGroupVersion(all, schema.GroupVersion{Group: "meta.k8s.io", Version: "v1"})
	all.AddKnownTypes(schema.GroupVersion{Group: "meta.k8s.io", Version: "v1"}, &metav1.PartialObjectMetadata{}, &metav1.PartialObjectMetadataList{})
	map[string]func(){"objects": objects, "filled": filled, "decodes": decodes, "patches": patches, "jsonpatches": jsonPatches, "frames": frames}[os.Args[1]]()
}
