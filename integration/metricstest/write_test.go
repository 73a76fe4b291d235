package metricstest

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"net/http"

	"github.com/klauspost/compress/s2"

	"github.com/tope-ota/ota/integration/fleet"
)

// write writes samples, none of which is older than those that were written before,
// by Prometheus' remote write protocol, version 1: a WriteRequest of
// https://github.com/prometheus/prometheus/blob/main/prompb/remote.proto, in a block
// of Snappy. Unlike a file for `promtool tsdb create-blocks-from openmetrics` it can
// say that a series ended.
func (s *server) write(ctx context.Context, series []fleet.Series) error {
	var request, one, inner []byte
	for _, series := range series {
		one = one[:0]
		for _, l := range series.Labels {
			inner = appendBytes(inner[:0], 1, []byte(l.Name))
			inner = appendBytes(inner, 2, []byte(l.Value))
			one = appendBytes(one, 1, inner) // TimeSeries.labels
		}
		for _, sample := range series.Samples {
			inner = append(inner[:0], 1<<3|wireFixed64)
			inner = binary.LittleEndian.AppendUint64(inner, math.Float64bits(sample.Value))
			inner = append(inner, 2<<3|wireVarint)
			inner = binary.AppendUvarint(inner, uint64(sample.At.UnixMilli()))
			one = appendBytes(one, 2, inner) // TimeSeries.samples
		}
		request = appendBytes(request, 1, one) // WriteRequest.timeseries
	}
	post, err := http.NewRequestWithContext(ctx, "POST", s.url+"/api/v1/write", bytes.NewReader(s2.EncodeSnappy(nil, request)))
	if err != nil {
		return err
	}
	post.Header.Set("Content-Type", "application/x-protobuf")
	post.Header.Set("Content-Encoding", "snappy")
	post.Header.Set("X-Prometheus-Remote-Write-Version", "0.1.0")
	response, err := s.client.Do(post)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode/100 != 2 {
		err = fmt.Errorf("prometheus does not take the samples: %s: %s", response.Status, text)
	}
	return err
}

// Of protobuf: how a field is written, in the lowest bits of its key.
const (
	wireVarint  = 0
	wireFixed64 = 1
	wireBytes   = 2
)

func appendBytes(to []byte, field byte, data []byte) []byte {
	to = append(to, field<<3|wireBytes)
	to = binary.AppendUvarint(to, uint64(len(data)))
	return append(to, data...)
}
