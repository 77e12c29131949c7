/* Datagrams by recvmmsg(2), 64 at a time, with the addresses of their senders. */
#define _GNU_SOURCE
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>

enum { BATCH = 64, SIZE = 64 };

/* Receive what is there; add up the first word of each datagram that is whole. Return how many there were. */
int64_t drain(int fd, int64_t *sum) {
    static char buffers[BATCH][SIZE];
    struct mmsghdr headers[BATCH];
    struct iovec vectors[BATCH];
    struct sockaddr_storage addresses[BATCH];
    for (int64_t got = 0;;) {
        for (int k = 0; k < BATCH; k++) {
            vectors[k] = (struct iovec){buffers[k], SIZE};
            headers[k].msg_hdr = (struct msghdr){.msg_name = &addresses[k],
                                                 .msg_namelen = sizeof addresses[k],
                                                 .msg_iov = &vectors[k],
                                                 .msg_iovlen = 1};
        }
        int n = recvmmsg(fd, headers, BATCH, MSG_DONTWAIT, NULL);
        if (n <= 0) return got;
        for (int k = 0; k < n; k++) {
            int64_t word;
            memcpy(&word, buffers[k], sizeof word);
            if (!(headers[k].msg_hdr.msg_flags & MSG_TRUNC)) *sum += word;
        }
        got += n;
    }
}
