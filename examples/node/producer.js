#!/usr/bin/env node
// Runs code in Mayfly from Node, waits for the result, and reads the files back.
//
// Needs pg (npm install pg; Debian: node-pg). Connects by $DATABASE_URL or the PG* variables, as a role
// that has mayfly_producer and was granted the tenant.
//
//     node producer.js                  the job below
//     node producer.js job.json 60      a payload of your own, and how many seconds it may take
//
// The result is printed as JSON, files are written to ./results. Exit code: 0 the job succeeded, 1 it
// ended otherwise, 3 it did not end within the limit and was cancelled.
'use strict'
const crypto = require('crypto')
const fs = require('fs')
const { Client } = require('pg')

const EXAMPLE = {
  language: 'node',
  source: "console.log(6 * 7); require('fs').writeFileSync('greeting.txt', 'hello from a microVM')",
  outputs: ['*.txt']
}
// A notification is a hint that may get lost; looking again is the safety net.
const POLL_MS = 2000
const sleep = ms => new Promise(resolve => setTimeout(resolve, ms))

class NotInTime extends Error {}

// One connection, made again whenever it breaks. Any number of jobs may be waited for at once.
class Mayfly {
  constructor (config = {}, tenant = '') {
    Object.assign(this, { config, tenant, db: null, client: null, wakers: new Map() })
  }

  // Runs one job and answers { state, result, error }. Throws NotInTime after `limit` milliseconds.
  async run (payload, limit) {
    const deadline = Date.now() + limit
    // Names this request. Should the connection break while we enqueue, we find the job again by it
    // instead of making a second one.
    const key = crypto.randomUUID()
    const id = await this.retrying(deadline, () => this.enqueue(payload, key))
    try {
      return await this.ended(id, deadline)
    } finally {
      this.wakers.delete(id)
    }
  }

  async ended (id, deadline) {
    while (true) {
      // We listened before the job was made, and the waker is set before we look: no end can be missed.
      const woken = new Promise(resolve => this.wakers.set(id, resolve))
      const ended = await this.retrying(deadline, () => this.look(id))
      if (ended) return ended
      const left = deadline - Date.now()
      if (left <= 0) break
      const timer = setTimeout(this.wakers.get(id), Math.min(POLL_MS, left))
      await woken
      clearTimeout(timer)
    }
    // It may end at this very moment; then cancelling changes nothing, and we take its result.
    const grace = Date.now() + 10000
    await this.retrying(grace, () => this.query('select mayfly.cancel($1)', [id]))
    const ended = await this.retrying(grace, () => this.look(id))
    if (ended && ended.state !== 'cancelled') return ended
    throw new NotInTime(`job ${id} did not end in time and was cancelled`)
  }

  // The bytes of a file named by a result.
  async blob (sha256) {
    const sql = 'select mayfly.get_blob($1) as bytes'
    return (await this.retrying(Date.now() + 30000, () => this.query(sql, [sha256])))[0].bytes
  }

  // The steps; each may be repeated after the connection broke.

  async enqueue (payload, key) {
    const found = await this.query('select id from mayfly.job where unique_key = $1 and tenant = $2' +
      ' order by id limit 1', [key, this.tenant])
    const rows = found.length
      ? found
      : await this.query("select mayfly.enqueue('code', $1, tenant => $2, unique_key => $3) as id",
        [payload, this.tenant, key])
    return Number(rows[0].id) // ids are below 2^53
  }

  async look (id) {
    // State, result and error in one statement: never a state of now with a result of before.
    const sql = 'select state, result, error, finished_at from mayfly.get_job($1)'
    const [row] = await this.query(sql, [id])
    if (!row) throw Object.assign(new Error(`there is no job ${id}`), { code: 'MF004' })
    if (!row.finished_at) return null
    return { state: row.state, result: row.result, error: row.error }
  }

  // The connection

  connected () {
    // One promise for all who ask at the same time.
    if (!this.db) {
      this.db = this.connect()
      this.db.catch(() => { this.db = null })
    }
    return this.db
  }

  async connect () {
    // The two limits end what hangs on a network that swallows packets.
    const db = new Client({ connectionTimeoutMillis: 10000, query_timeout: 10000, ...this.config })
    db.on('error', () => this.lost(db)) // without a listener the process would end
    db.on('end', () => this.lost(db))
    db.on('notification', note => this.wakers.get(Number(note.payload))?.())
    try {
      await db.connect()
      const { rows } = await db.query('select mayfly.done_channel($1) as name', [this.tenant])
      await db.query(`listen ${db.escapeIdentifier(rows[0].name)}`)
    } catch (error) {
      db.end().catch(() => {})
      throw error
    }
    this.client = db
    return db
  }

  lost (db) {
    if (this.client !== db) return
    this.client = this.db = null
    db.end().catch(() => {})
    for (const wake of this.wakers.values()) wake() // whoever waits must look anew
  }

  async query (sql, values) {
    return (await (await this.connected()).query(sql, values)).rows
  }

  // Does a step; when the connection is broken, makes a new one and does it again.
  async retrying (deadline, step) {
    while (true) {
      try {
        return await step()
      } catch (error) {
        // 57P..: the server ends connections. Any other SQLSTATE is an answer, not a broken connection.
        const isAnswer = /^[0-9A-Z]{5}$/.test(error.code ?? '') && !/^(57P|08)/.test(error.code)
        if (isAnswer || Date.now() >= deadline) throw error
        if (this.client) this.lost(this.client)
        await sleep(200)
      }
    }
  }

  async close () {
    const db = this.client
    this.client = this.db = null
    await db?.end()
  }
}

async function main ([file, seconds = '120']) {
  const payload = file ? JSON.parse(fs.readFileSync(file, 'utf8')) : EXAMPLE
  const url = process.env.DATABASE_URL
  const mayfly = new Mayfly(url ? { connectionString: url } : {})
  try {
    const job = await mayfly.run(payload, Number(seconds) * 1000)
    console.log(JSON.stringify(job))
    for (const [number, { name, size, sha256 }] of (job.result?.files ?? []).entries()) {
      // The name was chosen by the job: never use it as a path.
      fs.mkdirSync('results', { recursive: true })
      fs.writeFileSync(`results/${number}.bin`, await mayfly.blob(sha256))
      console.error(`results/${number}.bin: ${JSON.stringify(name)}, ${size} bytes`)
    }
    return job.state === 'succeeded' ? 0 : 1
  } catch (error) {
    console.error(String(error.message))
    return error instanceof NotInTime ? 3 : 1
  } finally {
    await mayfly.close()
  }
}

if (require.main === module) main(process.argv.slice(2)).then(code => { process.exitCode = code })
module.exports = { Mayfly, NotInTime }
