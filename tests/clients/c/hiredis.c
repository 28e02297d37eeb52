/* hiredis through faults: `hiredis plain NAME HOST:PORT...`. hiredis knows one server at a time: who uses it goes where MOVED says, and to the next
 * node when one does not answer. What is printed: python/story.py. */
#include <hiredis/hiredis.h>
#include <poll.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Milliseconds between two rounds: enough clients run at once. */
#define PACE 10
#define KEY_BYTES 256

static const char *name;
static char **nodes;
static int node_count, node;
static redisContext *connection;

static void say(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vprintf(format, arguments);
    va_end(arguments);
    putchar('\n');
    fflush(stdout);
}

static redisContext *connect_to(const char *address) {
    char host[KEY_BYTES];
    const char *colon = strrchr(address, ':');
    snprintf(host, sizeof host, "%.*s", (int)(colon - address), address);
    return redisConnect(host, atoi(colon + 1));
}

static void go_to(const char *address) {
    redisFree(connection);
    connection = connect_to(address);
}

/* True if standard input has ended; waits up to `ms` for that. */
static bool finishing(int ms) {
    struct pollfd in = {.fd = STDIN_FILENO, .events = POLLIN};
    char byte;
    return poll(&in, 1, ms) > 0 && read(STDIN_FILENO, &byte, 1) == 0;
}

/* A reply in one line, as far as these programs look at it. */
static void describe(const redisReply *reply, char *out, size_t size) {
    if (reply == NULL) {
        snprintf(out, size, "no reply: %s", connection == NULL ? "no memory" : connection->errstr);
    } else if (reply->type == REDIS_REPLY_INTEGER) {
        snprintf(out, size, "%lld", reply->integer);
    } else if (reply->type == REDIS_REPLY_NIL) {
        snprintf(out, size, "nil");
    } else if (reply->type == REDIS_REPLY_ARRAY) {
        size_t used = 0;
        out[0] = '\0';
        for (size_t i = 0; i < reply->elements && used + 1 < size; i++) {
            if (i > 0) used += snprintf(out + used, size - used, " ");
            describe(reply->element[i], out + used, size - used);
            used += strlen(out + used);
        }
    } else {
        snprintf(out, size, "%s", reply->str);
    }
}

static void check(const char *what, redisReply *reply, const char *wanted) {
    char found[4096];
    describe(reply, found, sizeof found);
    if (strcmp(found, wanted) != 0) say("wrong %s: %s, not %s", what, found, wanted);
    if (reply != NULL) freeReplyObject(reply);
}

#define EXPECT(wanted, ...) check(#__VA_ARGS__, redisCommand(connection, __VA_ARGS__), wanted)

static redisReply *next_reply(redisContext *from) {
    void *reply = NULL;
    return redisGetReply(from, &reply) == REDIS_OK ? reply : NULL;
}

static void scan(void) {
    int found = 0;
    char cursor[32] = "0";
    do {
        redisReply *page = redisCommand(connection, "SCAN %s MATCH {%s}:tour:scan:* COUNT 10", cursor, name);
        if (page == NULL || page->type != REDIS_REPLY_ARRAY) {
            check("SCAN", page, "a page");
            return;
        }
        snprintf(cursor, sizeof cursor, "%s", page->element[0]->str);
        found += (int)page->element[1]->elements;
        freeReplyObject(page);
    } while (strcmp(cursor, "0") != 0);
    if (found != 60) say("wrong SCAN: %d keys, not 60", found);
}

static void publish_and_subscribe(void) {
    struct timeval patience = {.tv_sec = 5};
    char wanted[KEY_BYTES];
    redisContext *listener = redisConnect(connection->tcp.host, connection->tcp.port);
    redisSetTimeout(listener, patience);
    snprintf(wanted, sizeof wanted, "subscribe news:%s 1", name);
    check("SUBSCRIBE", redisCommand(listener, "SUBSCRIBE news:%s", name), wanted);
    EXPECT("1", "PUBLISH news:%s hello", name);
    snprintf(wanted, sizeof wanted, "message news:%s hello", name);
    check("a message", next_reply(listener), wanted);
    redisFree(listener);
}

/* Everything once; what is not as it should be is said. */
static void tour(void) {
    char key[KEY_BYTES];
    snprintf(key, sizeof key, "{%s}:tour:", name);
    EXPECT("OK", "SET %sa 1", key);
    EXPECT("nil", "SET %sa 2 NX", key);
    EXPECT("1", "SET %sa 3 GET", key);
    EXPECT("42", "INCRBY %sa 39", key);
    EXPECT("42.5", "INCRBYFLOAT %sa 0.5", key);
    EXPECT("5", "APPEND %sa !", key);
    EXPECT("2.5!", "GETRANGE %sa 1 -1", key);
    EXPECT("OK", "MSET %sb %s %sc %b", key, "a b", key, "", (size_t)0);
    EXPECT("a b  nil", "MGET %sb %sc %snone", key, key, key);
    EXPECT("string", "TYPE %sa", key);
    EXPECT("42.5!", "GETDEL %sa", key);
    EXPECT("2", "DEL %sb %sc %snone", key, key, key);
    EXPECT("OK", "SET %se 1 EX 100", key);
    EXPECT("1", "PERSIST %se", key);
    EXPECT("-1", "TTL %se", key);
    EXPECT("1", "PEXPIREAT %se 1", key);
    EXPECT("nil", "GET %se", key);
    EXPECT("OK", "SET %stext text", key);
    EXPECT("ERR value is not an integer or out of range", "INCR %stext", key);

    redisAppendCommand(connection, "SET %sp 1", key);
    redisAppendCommand(connection, "INCR %sp", key);
    redisAppendCommand(connection, "DEL %sp", key);
    check("a pipeline's SET", next_reply(connection), "OK");
    check("a pipeline's INCR", next_reply(connection), "2");
    check("a pipeline's DEL", next_reply(connection), "1");

    EXPECT("OK", "WATCH %st", key);
    EXPECT("OK", "MULTI");
    EXPECT("QUEUED", "SET %st 1", key);
    EXPECT("QUEUED", "INCR %st", key);
    EXPECT("OK 2", "EXEC");
    EXPECT("OK", "WATCH %st", key);
    EXPECT("OK", "SET %st %s", key, "changed since");
    EXPECT("OK", "MULTI");
    EXPECT("QUEUED", "SET %st mine", key);
    EXPECT("nil", "EXEC");

    for (int i = 0; i < 60; i++) EXPECT("OK", "SET %sscan:%d 1", key, i);
    scan();
    publish_and_subscribe();
}

static void after(const char *error) {
    int port;
    char host[KEY_BYTES], address[2 * KEY_BYTES];
    if (sscanf(error, "MOVED %*d %255[^:]:%d", host, &port) == 2) {
        snprintf(address, sizeof address, "%s:%d", host, port);
        go_to(address);
    } else if (connection == NULL || connection->err != 0) {
        node = (node + 1) % node_count;
        go_to(nodes[node]);
    }
}

/* Whether a round is acknowledged; if not, `error` says why. Some rounds write one key, some two in a pipeline, some two in a transaction. */
static bool write_round(int n, char *error, size_t size) {
    int replies = 0;
    bool good = connection != NULL && connection->err == 0;
    if (!good) {
        snprintf(error, size, "%s", connection == NULL ? "no memory" : connection->errstr);
        return false;
    }
    if (n % 5 == 0) replies += redisAppendCommand(connection, "MULTI") == REDIS_OK;
    replies += redisAppendCommand(connection, "SET {%s}:%d:0 %d", name, n, n) == REDIS_OK;
    if (n % 5 < 2) replies += redisAppendCommand(connection, "SET {%s}:%d:1 %d", name, n, n) == REDIS_OK;
    if (n % 5 == 0) replies += redisAppendCommand(connection, "EXEC") == REDIS_OK;
    for (; replies > 0; replies--) {
        redisReply *reply = next_reply(connection);
        bool is_array = reply != NULL && reply->type == REDIS_REPLY_ARRAY;
        char found[512];
        describe(reply, found, sizeof found);
        if (good && strcmp(found, is_array ? "OK OK" : "OK") != 0 && strcmp(found, "QUEUED") != 0) {
            good = false;
            snprintf(error, size, "%s", found);
        }
        if (reply == NULL) break;
        freeReplyObject(reply);
    }
    return good;
}

int main(int count, char **arguments) {
    if (count < 4) return 2;
    name = arguments[2];
    nodes = arguments + 3;
    node_count = count - 3;
    int *acked = NULL;
    int acked_count = 0;
    char error[512];
    say("library hiredis %d.%d.%d", HIREDIS_MAJOR, HIREDIS_MINOR, HIREDIS_PATCH);
    connection = connect_to(nodes[0]);
    tour();
    say("ready");
    for (int n = 1; !finishing(PACE); n++) {
        char wanted[32];
        snprintf(wanted, sizeof wanted, "%d", n);
        if (!write_round(n, error, sizeof error)) {
            say("error %d %s", n, error);
            after(error);
            continue;
        }
        acked = realloc(acked, (acked_count + 1) * sizeof *acked);
        acked[acked_count++] = n;
        say("acked %d", n);
        redisReply *reply = redisCommand(connection, "GET {%s}:%d:0", name, n);
        if (reply == NULL || reply->type == REDIS_REPLY_ERROR) {
            describe(reply, error, sizeof error);
            say("error %d %s", n, error);
            after(error);
            if (reply != NULL) freeReplyObject(reply);
        } else {
            describe(reply, error, sizeof error);
            if (strcmp(error, wanted) != 0) say("stale a read: %s, not %s", error, wanted);
            freeReplyObject(reply);
        }
    }
    tour();
    for (int i = 0; i < acked_count; i++) {
        char wanted[32];
        snprintf(wanted, sizeof wanted, "%d", acked[i]);
        for (int part = 0; part < (acked[i] % 5 < 2 ? 2 : 1); part++) {
            EXPECT(wanted, "GET {%s}:%d:%d", name, acked[i], part);
        }
    }
    say("verified %d", acked_count);
    redisFree(connection);
    free(acked);
    return 0;
}
