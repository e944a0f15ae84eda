// A CSI driver whose volumes are folders of one node: its identity, controller and node service on one socket, which it registers
// itself. It asks for what a cluster can do for a driver: attaching, staging, topology, a limit.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"
	registration "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

const (
	name     = "folders.kedge.test"
	topology = "folders.kedge.test/node"
)

type driver struct {
	csi.UnimplementedIdentityServer
	csi.UnimplementedControllerServer
	csi.UnimplementedNodeServer
	registration.UnimplementedRegistrationServer
	// Where the volumes are, a folder each, and what is noted beside them.
	data, node, endpoint string
	limit                int64
	lock                 sync.Mutex
}

func main() {
	d := &driver{}
	flag.StringVar(&d.data, "data", "/data", "folder of the volumes")
	flag.StringVar(&d.node, "node", "", "name of the node")
	flag.StringVar(&d.endpoint, "endpoint", "/var/lib/kubelet/plugins/"+name+"/csi.sock", "socket, as the node knows it")
	registry := flag.String("registry", "/registration", "folder in which the node looks for drivers")
	flag.Int64Var(&d.limit, "limit", 3, "volumes that the node takes")
	socket := flag.String("socket", "/csi/csi.sock", "socket, as this container knows it")
	flag.Parse()
	must(os.MkdirAll(d.data, 0o755))
	server := grpc.NewServer(grpc.UnaryInterceptor(told))
	csi.RegisterIdentityServer(server, d)
	csi.RegisterControllerServer(server, d)
	csi.RegisterNodeServer(server, d)
	go func() { must(server.Serve(listen(*socket))) }()
	registrar := grpc.NewServer()
	registration.RegisterRegistrationServer(registrar, d)
	must(registrar.Serve(listen(filepath.Join(*registry, name+"-reg.sock"))))
}

func listen(path string) net.Listener {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		panic(err)
	}
	listener, err := net.Listen("unix", path)
	must(err)
	return listener
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

// told says what was asked and how it went.
func told(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	resp, err := handler(ctx, req)
	if method := filepath.Base(info.FullMethod); !strings.Contains(method, "Capabilit") && method != "Probe" {
		fmt.Println(method, err)
	}
	return resp, err
}

func (d *driver) volume(id string) (string, error) {
	if id == "" || strings.ContainsAny(id, "/.") {
		return "", status.Error(codes.InvalidArgument, "no volume's name")
	}
	return filepath.Join(d.data, id), nil
}

// Registration.

func (d *driver) GetInfo(context.Context, *registration.InfoRequest) (*registration.PluginInfo, error) {
	return &registration.PluginInfo{Type: registration.CSIPlugin, Name: name, Endpoint: d.endpoint, SupportedVersions: []string{"1.0.0"}}, nil
}

func (d *driver) NotifyRegistrationStatus(_ context.Context, s *registration.RegistrationStatus) (*registration.RegistrationStatusResponse, error) {
	fmt.Println("registered:", s.PluginRegistered, s.Error)
	return &registration.RegistrationStatusResponse{}, nil
}

// Identity.

func (d *driver) GetPluginInfo(context.Context, *csi.GetPluginInfoRequest) (*csi.GetPluginInfoResponse, error) {
	return &csi.GetPluginInfoResponse{Name: name, VendorVersion: "1"}, nil
}

func (d *driver) GetPluginCapabilities(context.Context, *csi.GetPluginCapabilitiesRequest) (*csi.GetPluginCapabilitiesResponse, error) {
	service := func(t csi.PluginCapability_Service_Type) *csi.PluginCapability {
		return &csi.PluginCapability{Type: &csi.PluginCapability_Service_{Service: &csi.PluginCapability_Service{Type: t}}}
	}
	return &csi.GetPluginCapabilitiesResponse{Capabilities: []*csi.PluginCapability{
		service(csi.PluginCapability_Service_CONTROLLER_SERVICE),
		service(csi.PluginCapability_Service_VOLUME_ACCESSIBILITY_CONSTRAINTS),
	}}, nil
}

func (d *driver) Probe(context.Context, *csi.ProbeRequest) (*csi.ProbeResponse, error) {
	return &csi.ProbeResponse{Ready: wrapperspb.Bool(true)}, nil
}

// Controller.

func (d *driver) ControllerGetCapabilities(context.Context, *csi.ControllerGetCapabilitiesRequest) (*csi.ControllerGetCapabilitiesResponse, error) {
	resp := &csi.ControllerGetCapabilitiesResponse{}
	for _, t := range []csi.ControllerServiceCapability_RPC_Type{
		csi.ControllerServiceCapability_RPC_CREATE_DELETE_VOLUME,
		csi.ControllerServiceCapability_RPC_PUBLISH_UNPUBLISH_VOLUME,
		csi.ControllerServiceCapability_RPC_GET_CAPACITY,
	} {
		resp.Capabilities = append(resp.Capabilities, &csi.ControllerServiceCapability{Type: &csi.ControllerServiceCapability_Rpc{
			Rpc: &csi.ControllerServiceCapability_RPC{Type: t},
		}})
	}
	return resp, nil
}

func (d *driver) here() []*csi.Topology {
	return []*csi.Topology{{Segments: map[string]string{topology: d.node}}}
}

func (d *driver) CreateVolume(_ context.Context, r *csi.CreateVolumeRequest) (*csi.CreateVolumeResponse, error) {
	path, err := d.volume(r.Name)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(path, 0o777); err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	must(os.Chmod(path, 0o777))
	return &csi.CreateVolumeResponse{Volume: &csi.Volume{
		VolumeId: r.Name, CapacityBytes: r.CapacityRange.GetRequiredBytes(), AccessibleTopology: d.here(),
		VolumeContext: map[string]string{"made-for": r.Parameters["csi.storage.k8s.io/pvc/name"]},
	}}, nil
}

func (d *driver) DeleteVolume(_ context.Context, r *csi.DeleteVolumeRequest) (*csi.DeleteVolumeResponse, error) {
	path, err := d.volume(r.VolumeId)
	if err == nil {
		err = os.RemoveAll(path)
	}
	return &csi.DeleteVolumeResponse{}, err
}

func (d *driver) ControllerPublishVolume(_ context.Context, r *csi.ControllerPublishVolumeRequest) (*csi.ControllerPublishVolumeResponse, error) {
	return &csi.ControllerPublishVolumeResponse{PublishContext: map[string]string{"attached-to": r.NodeId}}, nil
}

func (d *driver) ControllerUnpublishVolume(context.Context, *csi.ControllerUnpublishVolumeRequest) (*csi.ControllerUnpublishVolumeResponse, error) {
	return &csi.ControllerUnpublishVolumeResponse{}, nil
}

func (d *driver) ValidateVolumeCapabilities(_ context.Context, r *csi.ValidateVolumeCapabilitiesRequest) (*csi.ValidateVolumeCapabilitiesResponse, error) {
	return &csi.ValidateVolumeCapabilitiesResponse{
		Confirmed: &csi.ValidateVolumeCapabilitiesResponse_Confirmed{VolumeCapabilities: r.VolumeCapabilities},
	}, nil
}

func (d *driver) GetCapacity(context.Context, *csi.GetCapacityRequest) (*csi.GetCapacityResponse, error) {
	return &csi.GetCapacityResponse{AvailableCapacity: 1 << 30}, nil
}

// Node.

func (d *driver) NodeGetInfo(context.Context, *csi.NodeGetInfoRequest) (*csi.NodeGetInfoResponse, error) {
	return &csi.NodeGetInfoResponse{NodeId: "id-of-" + d.node, MaxVolumesPerNode: d.limit, AccessibleTopology: d.here()[0]}, nil
}

func (d *driver) NodeGetCapabilities(context.Context, *csi.NodeGetCapabilitiesRequest) (*csi.NodeGetCapabilitiesResponse, error) {
	return &csi.NodeGetCapabilitiesResponse{Capabilities: []*csi.NodeServiceCapability{{Type: &csi.NodeServiceCapability_Rpc{
		Rpc: &csi.NodeServiceCapability_RPC{Type: csi.NodeServiceCapability_RPC_STAGE_UNSTAGE_VOLUME},
	}}}}, nil
}

// bind mounts one folder on another, once.
func (d *driver) bind(from, to string, readOnly bool) error {
	d.lock.Lock()
	defer d.lock.Unlock()
	if err := os.MkdirAll(to, 0o750); err != nil {
		return status.Error(codes.Internal, err.Error())
	}
	if mounted(to) {
		return nil
	}
	if err := syscall.Mount(from, to, "", syscall.MS_BIND, ""); err != nil {
		return status.Error(codes.Internal, fmt.Sprintf("bind %s on %s: %v", from, to, err))
	}
	if readOnly {
		return syscall.Mount("", to, "", syscall.MS_BIND|syscall.MS_REMOUNT|syscall.MS_RDONLY, "")
	}
	return nil
}

func (d *driver) unbind(at string) error {
	d.lock.Lock()
	defer d.lock.Unlock()
	if mounted(at) {
		if err := syscall.Unmount(at, 0); err != nil {
			return status.Error(codes.Internal, fmt.Sprintf("unmount %s: %v", at, err))
		}
	}
	return nil
}

func mounted(path string) bool {
	table, err := os.ReadFile("/proc/self/mountinfo")
	must(err)
	for _, line := range strings.Split(string(table), "\n") {
		if fields := strings.Fields(line); len(fields) > 4 && fields[4] == path {
			return true
		}
	}
	return false
}

func (d *driver) NodeStageVolume(_ context.Context, r *csi.NodeStageVolumeRequest) (*csi.NodeStageVolumeResponse, error) {
	if r.PublishContext["attached-to"] != "id-of-"+d.node {
		return nil, status.Error(codes.FailedPrecondition, "the volume is not attached to this node")
	}
	path, err := d.volume(r.VolumeId)
	if err != nil {
		return nil, err
	}
	return &csi.NodeStageVolumeResponse{}, d.bind(path, r.StagingTargetPath, false)
}

func (d *driver) NodeUnstageVolume(_ context.Context, r *csi.NodeUnstageVolumeRequest) (*csi.NodeUnstageVolumeResponse, error) {
	return &csi.NodeUnstageVolumeResponse{}, d.unbind(r.StagingTargetPath)
}

// NodePublishVolume mounts what is staged, or for a volume that lives as long as its pod a folder of its own.
func (d *driver) NodePublishVolume(_ context.Context, r *csi.NodePublishVolumeRequest) (*csi.NodePublishVolumeResponse, error) {
	from := r.StagingTargetPath
	if r.VolumeContext["csi.storage.k8s.io/ephemeral"] == "true" {
		path, err := d.volume(r.VolumeId)
		if err != nil {
			return nil, err
		}
		must(os.MkdirAll(path, 0o777))
		note := fmt.Sprintf("%s of %s\n", r.VolumeContext["note"], r.VolumeContext["csi.storage.k8s.io/pod.name"])
		must(os.WriteFile(filepath.Join(path, "note"), []byte(note), 0o644))
		from = path
	}
	return &csi.NodePublishVolumeResponse{}, d.bind(from, r.TargetPath, r.Readonly)
}

func (d *driver) NodeUnpublishVolume(_ context.Context, r *csi.NodeUnpublishVolumeRequest) (*csi.NodeUnpublishVolumeResponse, error) {
	if err := d.unbind(r.TargetPath); err != nil {
		return nil, err
	}
	if err := os.Remove(r.TargetPath); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, status.Error(codes.Internal, err.Error())
	}
	if strings.HasPrefix(r.VolumeId, "csi-") {
		if path, err := d.volume(r.VolumeId); err == nil {
			must(os.RemoveAll(path))
		}
	}
	return &csi.NodeUnpublishVolumeResponse{}, nil
}
