<?php
// Pipelines of a million commands with phpredis, which writes all of a pipeline before it reads: HOST PORT.

const COMMANDS = 1_000_000;

function demand(bool $holds, string $what): void {
    if (!$holds) {
        fwrite(STDERR, "$what\n");
        exit(1);
    }
}

ini_set('memory_limit', '-1');
$redis = new Redis();
$redis->connect($argv[1], (int) $argv[2], 300);
$redis->setOption(Redis::OPT_READ_TIMEOUT, 300);

$redis->del('php:n');
$pipeline = $redis->multi(Redis::PIPELINE);
for ($i = 0; $i < COMMANDS; $i++) {
    $pipeline->incr('php:n');
}
demand($pipeline->exec() === range(1, COMMANDS), 'INCR answers in order');

$value = str_repeat('v', 1_000);
$redis->set('php:large', $value);
$pipeline = $redis->multi(Redis::PIPELINE);
for ($i = 0; $i < COMMANDS / 2; $i++) {
    $pipeline->get('php:large');
}
$replies = $pipeline->exec();
demand(count($replies) === COMMANDS / 2 && array_unique($replies) === [$value], 'GET answers the value each time');
